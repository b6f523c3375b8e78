/* Tasks of a kernel, shared among threads. Each thread calls `work` with the same job. */
#include "sampling.h"
#include "scan.h"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

typedef struct {
  void (*kernel)(const void *call, int64_t task);
  const void *call;
  int64_t tasks, next;
} Job;

/* Read when the library is loaded, so that structs of other sources are never taken for those of structs.py. */
const int64_t layout_of_this_library[5] = {V, sizeof(Scan), sizeof(Call), sizeof(Sample), sizeof(Job)};

void work(void *data) {
  Job *job = data;
#if defined(__SSE__)
  /* Numbers below 1e-38 become 0 while the job runs: a core takes a hundred times as long for them. A state decays to
     such numbers wherever its input is 0. */
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);
#endif
  int64_t task;
  while ((task = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->tasks) job->kernel(job->call, task);
#if defined(__SSE__)
  _mm_setcsr(before);
#endif
}
