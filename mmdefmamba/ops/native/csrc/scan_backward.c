/* The scans, backward: each block's states are computed again from the one that was kept before it, then the gradient
   g of the state walks from the end to the start,

     g_t = C_t dy_t + exp(delta_{t+1} A) g_{t+1}.

   Gradients are written in a fixed order, never added by several tasks, so that results are the same in each run. */
#include "scan.h"

/* What the tokens of a block have for one vector of channels. */
typedef struct {
  vec delta[TOKENS], slope[TOKENS], u[TOKENS], dy[TOKENS];
  vec from_decay[TOKENS], from_input[TOKENS]; /* two parts of the gradient of delta, the first without log(2) */
} Block;

/* Gradients that sum up from block to block. */
typedef struct {
  vec D, bias;
} Sums;

/* Walk STATES_AT_ONCE states of one vector of channels through a block, forwards and back.
   dB, dC: V channels of their gradients, per token and state; `add` is 0 for the first vector of a task. */
INLINE void walk_states_back(int tokens, Block *block, const float *B, const float *C, int64_t width, const vec *A,
                             const float *kept, vec *carried, vec *dA, vec dB[][STATES_AT_ONCE],
                             vec dC[][STATES_AT_ONCE], int add) {
  vec decay[TOKENS][STATES_AT_ONCE], h[TOKENS + 1][STATES_AT_ONCE], rate[STATES_AT_ONCE];
  UNROLL for (int n = 0; n < STATES_AT_ONCE; n++) rate[n] = A[n], h[0][n] = load(kept + n * V);
  for (int i = 0; i < tokens; i++) {
    const vec delta = block->delta[i], delta_u = delta * block->u[i];
    UNROLL for (int n = 0; n < STATES_AT_ONCE; n++) {
      decay[i][n] = exp2_of(delta * rate[n]);
      h[i + 1][n] = decay[i][n] * h[i][n] + delta_u * B[i * width + n];
    }
  }
  vec g[STATES_AT_ONCE], dA_sum[STATES_AT_ONCE];
  UNROLL for (int n = 0; n < STATES_AT_ONCE; n++) g[n] = carried[n], dA_sum[n] = dA[n];
  for (int i = tokens - 1; i >= 0; i--) {
    const vec delta = block->delta[i], delta_u = delta * block->u[i], dy = block->dy[i];
    vec from_decay = block->from_decay[i], from_input = block->from_input[i];
    UNROLL for (int n = 0; n < STATES_AT_ONCE; n++) {
      const vec g_n = g[n] + dy * C[i * width + n], dC_n = dy * h[i + 1][n], dB_n = g_n * delta_u;
      dC[i][n] = add ? dC[i][n] + dC_n : dC_n;
      dB[i][n] = add ? dB[i][n] + dB_n : dB_n;
      from_input += g_n * B[i * width + n];
      g[n] = decay[i][n] * g_n;
      const vec exponent = g[n] * h[i][n];
      dA_sum[n] += exponent * delta;
      from_decay += exponent * rate[n];
    }
    block->from_decay[i] = from_decay;
    block->from_input[i] = from_input;
  }
  UNROLL for (int n = 0; n < STATES_AT_ONCE; n++) carried[n] = g[n], dA[n] = dA_sum[n];
}

/* Write sums over the channels: STATES_AT_ONCE numbers for each token of a block. V is twice that, so that one call of
   lane_sums serves two tokens. */
INLINE void write_lane_sums(float *out, int64_t width, const int64_t *at, int tokens, vec x[][STATES_AT_ONCE]) {
  for (int i = 0; i < tokens; i += 2) {
    const vec sums = lane_sums(x[i]);
    memcpy(out + at[i] * width, &sums, 4 * STATES_AT_ONCE);
    if (i + 1 < tokens) memcpy(out + at[i + 1] * width, (const float *)&sums + STATES_AT_ONCE, 4 * STATES_AT_ONCE);
  }
}

static void run_scan_back(const Call *call, const Task *t, int64_t k) {
  const Scan *scan = call->scan + k;
  const int64_t N = call->padded_states, C = call->channels, vectors = t->end_vector - t->first_vector;
  const int64_t *order = order_of(scan, t->image);
  vec carried[vectors * N], A[vectors * N], dA[vectors * N];
  vec dB[TOKENS][STATES_AT_ONCE] = {0}, dC[TOKENS][STATES_AT_ONCE] = {0};
  Block blocks[vectors];
  Sums sums[vectors];
  float B_rows[TOKENS * N], C_rows[TOKENS * N], rank[TOKENS * (call->rank ? call->rank : 1)];
  for (int64_t v = 0; v < vectors; v++) {
    const int64_t vector = t->first_vector + v;
    sums[v].D = sums[v].bias = broadcast(0);
    for (int64_t n = 0; n < N; n++) {
      carried[v * N + n] = dA[v * N + n] = broadcast(0);
      A[v * N + n] = load_lanes(scan->A + n * C + vector * V, lanes_of(call, vector));
    }
  }
  for (int64_t number = blocks_of(call) - 1; number >= 0; number--) {
    const int64_t first = number * TOKENS;
    const int tokens = call->length - first < TOKENS ? (int)(call->length - first) : TOKENS;
    int64_t at[TOKENS], next[TOKENS];
    places(call, scan, order, first, at);
    places(call, scan, order, first - TOKENS, next);
    gather(&scan->B, t->image, at, call->states, N, B_rows);
    gather(&scan->C, t->image, at, call->states, N, C_rows);
    if (!scan->delta.data) gather(&scan->rank, t->image, at, call->rank, call->rank, rank);

    for (int64_t v = 0; v < vectors; v++) {
      const int64_t vector = t->first_vector + v, channel = vector * V;
      const int lanes = lanes_of(call, vector);
      Block *b = blocks + v;
      raw_time_steps(call, scan, t->image, at, rank, channel, lanes, b->delta);
      for (int i = 0; i < TOKENS; i++) {
        b->u[i] = load_lanes(row(&scan->u, t->image, at[i]) + channel, lanes);
        b->dy[i] = load_lanes(row(&scan->dy, t->image, at[i]) + channel, lanes);
        b->slope[i] = broadcast(1);
        if (call->softplus) b->delta[i] = softplus_with_gradient(b->delta[i], b->slope + i);
        b->from_decay[i] = b->from_input[i] = broadcast(0);
        __builtin_prefetch(row(&scan->u, t->image, next[i]) + channel, 0, 3);
        __builtin_prefetch(row(&scan->dy, t->image, next[i]) + channel, 0, 3);
        if (scan->delta.data) __builtin_prefetch(row(&scan->delta, t->image, next[i]) + channel, 0, 3);
      }
    }
    /* Some states of all vectors before the next states: dB and dC of these states stay in the cache of first level. */
    const int64_t rows_before = (t->group * call->images + t->image) * call->length * N;
    for (int64_t n = 0; n < N; n += STATES_AT_ONCE) {
      for (int64_t v = 0; v < vectors; v++) {
        const int64_t vector = t->first_vector + v;
        const float *kept =
            scan->states + (((t->image * vectors_of(call) + vector) * blocks_of(call) + number) * N + n) * V;
        walk_states_back(tokens, blocks + v, B_rows + n, C_rows + n, N, A + v * N + n, kept, carried + v * N + n,
                         dA + v * N + n, dB, dC, v > 0);
      }
      write_lane_sums(scan->dB + rows_before + n, N, at, tokens, dB);
      write_lane_sums(scan->dC + rows_before + n, N, at, tokens, dC);
    }
    for (int64_t v = 0; v < vectors; v++) {
      const int64_t vector = t->first_vector + v, channel = vector * V;
      const int lanes = lanes_of(call, vector);
      const Block *b = blocks + v;
      const vec D = load_lanes(scan->D + channel, lanes);
      for (int i = 0; i < tokens; i++) {
        const vec ddelta = (b->from_decay[i] * LN2 + b->from_input[i] * b->u[i]) * b->slope[i];
        vec du = b->from_input[i] * b->delta[i] + D * b->dy[i];
        float *du_row = output_row(&scan->du, t->image, at[i]) + channel;
        if (scan->add_to_du) du += load_lanes(du_row, lanes);
        store_lanes(du_row, du, lanes);
        store_lanes(output_row(&scan->ddelta, t->image, at[i]) + channel, ddelta, lanes);
        sums[v].D += b->dy[i] * b->u[i];
        sums[v].bias += ddelta;
      }
    }
  }
  for (int64_t v = 0; v < vectors; v++) {
    const int64_t vector = t->first_vector + v, channel = vector * V;
    const int lanes = lanes_of(call, vector);
    for (int64_t n = 0; n < N; n++)
      store_lanes(scan->dA + (t->image * N + n) * C + channel, dA[v * N + n], lanes);
    store_lanes(scan->dD + t->image * C + channel, sums[v].D, lanes);
    store_lanes(scan->dbias + t->image * C + channel, sums[v].bias, lanes);
  }
}

/* From the gradient of mean * silu(z) to those of z and of the sum over the scans, for the channels of a task. */
static void run_gate_back(const Call *call, const Task *t) {
  for (int64_t i = 0; i < call->length; i++) {
    for (int64_t vector = t->first_vector; vector < t->end_vector; vector++) {
      const int64_t channel = vector * V;
      const int lanes = lanes_of(call, vector);
      const vec g = load_lanes(row(&call->dgated, t->image, i) + channel, lanes);
      const vec z = load_lanes(row(&call->z, t->image, i) + channel, lanes), s = sigmoid(z);
      const vec mean = load_lanes(output_row(&call->mean, t->image, i) + channel, lanes);
      store_lanes(output_row(&call->dsum, t->image, i) + channel, g * z * s * (1.0f / call->scans), lanes);
      store_lanes(output_row(&call->dz, t->image, i) + channel, g * mean * s * (1.0f + z * (1.0f - s)), lanes);
    }
  }
}

/* With merge, the scans' dy is the gradient of their sum, one map for all of them. */
void scan_backward(const Call *call, int64_t number) {
  const Task t = task_of(call, number);
  if (call->merge) run_gate_back(call, &t);
  for (int64_t k = t.first_scan; k < t.end_scan; k++) run_scan_back(call, &t, k);
}
