/* The scans, forward: per channel, with a state h of N numbers that starts at zero,

     h = exp(delta * A) * h + delta * B * u,     y = <C, h> + D * u,     delta = softplus(delta + bias). */
#include "scan.h"

/* Walk STATES_AT_ONCE states of one vector of channels through a block, and add their part of y. */
INLINE void walk_states(int tokens, const vec *delta, const vec *delta_u, const float *B, const float *C, int64_t width,
                        const vec *A, vec *state, vec *y) {
  vec h[STATES_AT_ONCE], decay[STATES_AT_ONCE], rate[STATES_AT_ONCE];
  UNROLL for (int n = 0; n < STATES_AT_ONCE; n++) h[n] = state[n], rate[n] = A[n];
  for (int i = 0; i < tokens; i++) {
    const float *B_i = B + i * width, *C_i = C + i * width;
    vec even = y[i], odd = {0}; /* two sums, so that one addition need not wait for the other */
    UNROLL for (int n = 0; n < STATES_AT_ONCE; n++) decay[n] = exp2_of(delta[i] * rate[n]);
    UNROLL for (int n = 0; n < STATES_AT_ONCE; n += 2) {
      h[n] = decay[n] * h[n] + delta_u[i] * B_i[n];
      h[n + 1] = decay[n + 1] * h[n + 1] + delta_u[i] * B_i[n + 1];
      even += h[n] * C_i[n];
      odd += h[n + 1] * C_i[n + 1];
    }
    y[i] = even + odd;
  }
  UNROLL for (int n = 0; n < STATES_AT_ONCE; n++) state[n] = h[n];
}

/* Write the results of a block. With merge, each scan adds its y to the sum of those before it, and the last one makes
   the mean and the gate of it. */
INLINE void write_results(const Call *call, const Task *t, int64_t k, const int64_t *at, int tokens, int64_t channel,
                          int lanes, const vec *y) {
  const Scan *scan = call->scan + k;
  for (int i = 0; i < tokens; i++) {
    if (!call->merge) {
      store_lanes(output_row(&scan->y, t->image, at[i]) + channel, y[i], lanes);
      continue;
    }
    float *sum = output_row(&call->gated, t->image, at[i]) + channel;
    vec total = k == 0 ? y[i] : y[i] + load_lanes(sum, lanes);
    if (k == call->scans - 1) {
      const vec z = load_lanes(row(&call->z, t->image, at[i]) + channel, lanes);
      total *= 1.0f / call->scans;
      if (call->mean.data) store_lanes(output_row(&call->mean, t->image, at[i]) + channel, total, lanes);
      total *= z * sigmoid(z);
    }
    store_lanes(sum, total, lanes);
  }
}

static void run_scan(const Call *call, const Task *t, int64_t k) {
  const Scan *scan = call->scan + k;
  const int64_t N = call->padded_states, C = call->channels, vectors = t->end_vector - t->first_vector;
  const int64_t *order = order_of(scan, t->image);
  vec state[vectors * N], A[vectors * N];
  float B_rows[TOKENS * N], C_rows[TOKENS * N], rank[TOKENS * (call->rank ? call->rank : 1)];
  for (int64_t v = 0; v < vectors; v++) {
    const int64_t vector = t->first_vector + v;
    for (int64_t n = 0; n < N; n++) {
      state[v * N + n] = broadcast(0);
      A[v * N + n] = load_lanes(scan->A + n * C + vector * V, lanes_of(call, vector));
    }
  }
  for (int64_t block = 0; block < blocks_of(call); block++) {
    const int64_t first = block * TOKENS;
    const int tokens = call->length - first < TOKENS ? (int)(call->length - first) : TOKENS;
    int64_t at[TOKENS], next[TOKENS];
    places(call, scan, order, first, at);
    places(call, scan, order, first + TOKENS, next);
    gather(&scan->B, t->image, at, call->states, N, B_rows);
    gather(&scan->C, t->image, at, call->states, N, C_rows);
    if (!scan->delta.data) gather(&scan->rank, t->image, at, call->rank, call->rank, rank);

    for (int64_t v = 0; v < vectors; v++) {
      const int64_t vector = t->first_vector + v, channel = vector * V;
      const int lanes = lanes_of(call, vector);
      vec delta[TOKENS], delta_u[TOKENS], y[TOKENS];
      const vec D = load_lanes(scan->D + channel, lanes);
      raw_time_steps(call, scan, t->image, at, rank, channel, lanes, delta);
      for (int i = 0; i < TOKENS; i++) {
        const vec u = load_lanes(row(&scan->u, t->image, at[i]) + channel, lanes);
        if (call->softplus) delta[i] = softplus(delta[i]);
        delta_u[i] = delta[i] * u;
        y[i] = D * u;
        __builtin_prefetch(row(&scan->u, t->image, next[i]) + channel, 0, 3);
        if (scan->delta.data) __builtin_prefetch(row(&scan->delta, t->image, next[i]) + channel, 0, 3);
      }
      if (scan->states) {
        float *kept = scan->states + ((t->image * vectors_of(call) + vector) * blocks_of(call) + block) * N * V;
        for (int64_t n = 0; n < N; n++) store(kept + n * V, state[v * N + n]);
      }
      for (int64_t n = 0; n < N; n += STATES_AT_ONCE)
        walk_states(tokens, delta, delta_u, B_rows + n, C_rows + n, N, A + v * N + n, state + v * N + n, y);
      write_results(call, t, k, at, tokens, channel, lanes, y);
    }
  }
}

void scan_forward(const Call *call, int64_t number) {
  const Task t = task_of(call, number);
  for (int64_t k = t.first_scan; k < t.end_scan; k++) run_scan(call, &t, k);
}
