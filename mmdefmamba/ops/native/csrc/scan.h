/* What a call of the scans is told. Each struct here has its mirror in structs.py; sizes are compared when the library
   is loaded.

   Channels are processed V at a time. States are padded with zeros to a multiple of STATES_AT_ONCE. */
#ifndef MMDEFMAMBA_SCAN_H
#define MMDEFMAMBA_SCAN_H

#include "rows.h"

/* Tokens that are loaded, scanned and stored together; also the distance between two states that are kept for the
   backward. What does not depend on the state is computed for the whole block first, so that its latencies overlap. */
#define TOKENS 16
/* States that one loop over tokens carries: as many as the registers hold. AVX-512 has 32 registers, AVX2 16. */
#define STATES_AT_ONCE (V / 2)

/* One of the K scans. */
typedef struct {
  Rows u;     /* (images, length, channels) */
  Rows delta; /* time step before bias and softplus, (images, length, channels); data is NULL if it is projected */
  Rows rank;  /* what it is projected from, (images, length, rank) */
  const float *rank_weight; /* (rank, channels) */
  Rows B, C;                /* (images, length, states) */
  const float *A;           /* (padded states, channels), times log2(e) */
  const float *D, *bias;    /* (channels,) */
  const int64_t *order;     /* place of each step, (images or 1, length); NULL: row by row, or backwards */
  int64_t order_image;
  int64_t backwards;
  float *states; /* before each block, (images, vectors, blocks, padded states, V); NULL: not kept */
  Output y;      /* (images, length, channels) */
  /* the backward reads dy, and writes the rest; a later scan of the same map adds to its du */
  Rows dy;
  Output du, ddelta;
  int64_t add_to_du;
  float *dA;         /* (images, padded states, channels), without the factor log2(e) */
  float *dB, *dC;    /* (groups, images, length, padded states): the sums over the channels of each group */
  float *dD, *dbias; /* (images, channels) */
} Scan;

typedef struct {
  int64_t images, scans, length, channels, states, padded_states, rank;
  int64_t vectors_per_group; /* vectors of channels that one task walks through side by side */
  int64_t softplus;
  int64_t merge; /* one task runs all scans, and the first K - 1 results are added to those of the last */
  const Scan *scan;
  /* with merge: gate z, mean over the scans (NULL: not kept), and the result, mean * silu(z) */
  Rows z;
  Output mean, gated;
  /* and backward: dgated is read, dz and dsum, the gradient of the sum over the scans, are written */
  Rows dgated;
  Output dz, dsum;
} Call;

INLINE int64_t vectors_of(const Call *call) { return divided_up(call->channels, V); }
INLINE int64_t groups_of(const Call *call) { return divided_up(vectors_of(call), call->vectors_per_group); }
INLINE int64_t blocks_of(const Call *call) { return divided_up(call->length, TOKENS); }

/* The part of a call that one task computes: some vectors of channels of one image, for scans from first to last. */
typedef struct {
  int64_t group, image, first_scan, end_scan, first_vector, end_vector;
} Task;

INLINE Task task_of(const Call *call, int64_t number) {
  Task t;
  const int64_t groups = groups_of(call), vectors = vectors_of(call);
  t.group = number % groups;
  t.image = number / groups;
  t.first_scan = 0;
  t.end_scan = call->scans;
  if (!call->merge) {
    t.first_scan = t.image % call->scans;
    t.end_scan = t.first_scan + 1;
    t.image /= call->scans;
  }
  t.first_vector = t.group * call->vectors_per_group;
  t.end_vector = t.first_vector + call->vectors_per_group;
  if (t.end_vector > vectors) t.end_vector = vectors;
  return t;
}

INLINE int lanes_of(const Call *call, int64_t vector) { return lanes_at(call->channels, vector); }

/* The place on the map that a scan visits at a step. */
INLINE int64_t place(const Scan *scan, const int64_t *order, int64_t length, int64_t step) {
  return order ? order[step] : scan->backwards ? length - 1 - step : step;
}

INLINE const int64_t *order_of(const Scan *scan, int64_t image) {
  return scan->order ? scan->order + image * scan->order_image : NULL;
}

/* The places of the TOKENS steps from `first` on. Steps beyond the ends repeat the last or first one: such places are
   read, but nothing is written there. */
INLINE void places(const Call *call, const Scan *scan, const int64_t *order, int64_t first, int64_t *at) {
  for (int i = 0; i < TOKENS; i++) {
    int64_t step = first + i;
    step = step < 0 ? 0 : step < call->length ? step : call->length - 1;
    at[i] = place(scan, order, call->length, step);
  }
}

/* Copy a block's rows of `count` numbers to rows of `width` numbers that follow each other, with zeros behind. */
INLINE void gather(const Rows *rows, int64_t image, const int64_t *at, int64_t count, int64_t width, float *out) {
  for (int i = 0; i < TOKENS; i++) {
    memcpy(out + i * width, row(rows, image, at[i]), 4 * count);
    for (int64_t n = count; n < width; n++) out[i * width + n] = 0;
  }
}

/* Time steps of a block before the softplus: as they are given, or projected from the rows of `rank`. */
INLINE void raw_time_steps(const Call *call, const Scan *scan, int64_t image, const int64_t *at, const float *rank,
                           int64_t channel, int lanes, vec *raw) {
  const vec bias = load_lanes(scan->bias + channel, lanes);
  if (scan->delta.data) {
    for (int i = 0; i < TOKENS; i++) raw[i] = load_lanes(row(&scan->delta, image, at[i]) + channel, lanes) + bias;
    return;
  }
  for (int first = 0; first < TOKENS; first += 8) {
    vec sums[8];
    UNROLL for (int i = 0; i < 8; i++) sums[i] = bias;
    for (int64_t r = 0; r < call->rank; r++) {
      const vec weight = load_lanes(scan->rank_weight + r * call->channels + channel, lanes);
      UNROLL for (int i = 0; i < 8; i++) sums[i] += weight * rank[(first + i) * call->rank + r];
    }
    UNROLL for (int i = 0; i < 8; i++) raw[first + i] = sums[i];
  }
}

#endif
