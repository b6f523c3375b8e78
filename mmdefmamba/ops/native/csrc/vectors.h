/* Vectors of V floats, one channel per lane, and the functions of them that the scans need.

   The code uses the vector extensions of clang and GCC. V = 16 compiles to AVX-512, V = 8 to AVX2, V = 4 to
   NEON. Intrinsics stand only where AVX-512 has an instruction that the extensions cannot express. */
#ifndef MMDEFMAMBA_VECTORS_H
#define MMDEFMAMBA_VECTORS_H

#include <stdint.h>
#include <string.h>

#ifndef V
#define V 16
#endif
#if defined(__SSE__)
#include <immintrin.h>
#endif

typedef float vec __attribute__((vector_size(4 * V)));
typedef int32_t ivec __attribute__((vector_size(4 * V)));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#define LOG2E 1.44269504088896341f
#define LN2 0.693147180559945309f

INLINE vec load(const float *p) {
  vec x;
  memcpy(&x, p, sizeof x);
  return x;
}

INLINE void store(float *p, vec x) { memcpy(p, &x, sizeof x); }

/* The last vector of a row may have fewer than V channels. Its other lanes hold zeros and are not written. */
INLINE vec load_lanes(const float *p, int lanes) {
  if (lanes == V) return load(p);
  vec x = {0};
  memcpy(&x, p, 4 * lanes);
  return x;
}

INLINE void store_lanes(float *p, vec x, int lanes) {
  if (lanes == V)
    store(p, x);
  else
    memcpy(p, &x, 4 * lanes);
}

INLINE vec broadcast(float x) { return x - (vec){0}; }

INLINE vec where(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

/* max(x, low) and min(x, high): both return NaN where x is NaN. */
INLINE vec at_least(vec x, float low) { return where(x < broadcast(low), broadcast(low), x); }
INLINE vec at_most(vec x, float high) { return where(x > broadcast(high), broadcast(high), x); }

INLINE vec absolute(vec x) { return (vec)((ivec)x & 0x7fffffff); }

/* 2^f for f in [-0.5, 0.5], relative error 7e-8: a minimax polynomial whose value at 0 is exactly 1. A shorter one would
   save 7 % of a scan's time and err twice as much, in each step of a state's decay. */
INLINE vec exp2_polynomial(vec f) {
  vec p = broadcast(1.532597380e-04f);
  p = p * f + 1.339080394e-03f;
  p = p * f + 9.618506767e-03f;
  p = p * f + 5.550359935e-02f;
  p = p * f + 2.402264774e-01f;
  p = p * f + 6.931471825e-01f;
  return p * f + 1.0f;
}

/* 2^x. Below the smallest normal float, 2^-126, the absolute error is at most 2^-127; at -127 and below it is 0 without
   AVX-512, where 1.0f minus 127 in the exponent leaves no bit. */
INLINE vec exp2_of(vec x) {
#if V == 16
  const vec f = (vec)_mm512_reduce_ps((__m512)x, 0); /* x minus the nearest integer */
  return (vec)_mm512_scalef_ps((__m512)exp2_polynomial(f), (__m512)(x - f));
#else
  x = at_most(at_least(x, -127.0f), 127.0f);
  const vec shifted = x + 12582912.0f;       /* 1.5 * 2^23: the sum is rounded to an integer, in its lowest bits */
  const vec f = x - (shifted - 12582912.0f);
  return (vec)((ivec)exp2_polynomial(f) + ((ivec)shifted << 23));
#endif
}

/* a * b + c, rounded once. */
INLINE vec fused_multiply_add(vec a, vec b, vec c) {
  UNROLL for (int lane = 0; lane < V; lane++) a[lane] = __builtin_fmaf(a[lane], b[lane], c[lane]);
  return a;
}

/* e^x for x <= 0, and 0 below -87, as a floor above 0 would let a time step that is switched off move a large state.
   The product with log2(e) is kept in two parts: rounded once, it would cost a large x its digits. */
INLINE vec exp_of(vec x) {
  const ivec tiny = x < broadcast(-87.0f);
  x = at_least(x, -87.0f);
  const vec shifted = x * LOG2E + 12582912.0f, whole = shifted - 12582912.0f;
  const vec exact = fused_multiply_add(x, broadcast(LOG2E), -whole);
  const vec f = x * 1.92596299e-8f + exact; /* log2(e) minus LOG2E */
  return (vec)(~tiny & ((ivec)exp2_polynomial(f) + ((ivec)shifted << 23)));
}

/* log(1 + z) for z in [0, 1], relative error 2e-7: z times a polynomial, so that small z keep their digits. */
INLINE vec log1p_of(vec z) {
  vec p = broadcast(-3.244021209e-03f);
  p = p * z + 1.985144429e-02f;
  p = p * z + -5.695949867e-02f;
  p = p * z + 1.060365140e-01f;
  p = p * z + -1.530559063e-01f;
  p = p * z + 1.967593879e-01f;
  p = p * z + -2.495413423e-01f;
  p = p * z + 3.332996368e-01f;
  p = p * z + -4.999990165e-01f;
  return z * (p * z + 1.0f);
}

/* log(1 + e^x); above 20 it is x, as PyTorch's softplus. NaN stays NaN. */
INLINE vec softplus(vec x) {
  const vec y = at_least(x, 0.0f) + log1p_of(exp_of(-absolute(x)));
  return where(x > broadcast(20.0f), x, y);
}

/* The same, and its gradient: sigmoid(x), and 1 above 20. */
INLINE vec softplus_with_gradient(vec x, vec *gradient) {
  const vec z = exp_of(-absolute(x)), r = broadcast(1.0f) / (z + 1.0f);
  const ivec large = x > broadcast(20.0f);
  *gradient = where(large, broadcast(1.0f), where(x < broadcast(0.0f), z * r, r));
  return where(large, x, at_least(x, 0.0f) + log1p_of(z));
}

/* 1 / (1 + e^-x), from e^-|x|, which cannot overflow. */
INLINE vec sigmoid(vec x) {
  const vec z = exp_of(-absolute(x)), r = broadcast(1.0f) / (z + 1.0f);
  return where(x < broadcast(0.0f), z * r, r);
}

/* The sums over the lanes of V vectors, as one vector: lane i is the sum of rows[i]. Each step adds the halves of two
   vectors and packs the results into one, so that all lanes stay in use. */
INLINE vec lane_sums(const vec rows[V]) {
#if V == 16
#define HALVES(a, b)                                                                           \
  (__builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +     \
   __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
#define QUARTERS(a, b)                                                                         \
  (__builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27) +   \
   __builtin_shufflevector(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31))
#define PAIRS(a, b)                                                                            \
  (__builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +   \
   __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31))
#define NEIGHBOURS(a, b)                                                                       \
  (__builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +  \
   __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31))
  vec s[8];
  UNROLL for (int i = 0; i < 8; i++) s[i] = HALVES(rows[i], rows[i + 8]);
  UNROLL for (int i = 0; i < 4; i++) s[i] = QUARTERS(s[i], s[i + 4]);
  return NEIGHBOURS(PAIRS(s[0], s[2]), PAIRS(s[1], s[3]));
#elif V == 8
#define HALVES(a, b)                                            \
  (__builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +    \
   __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15))
#define PAIRS(a, b)                                             \
  (__builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13) +    \
   __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15))
#define NEIGHBOURS(a, b)                                        \
  (__builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14) +   \
   __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15))
  vec s[4];
  UNROLL for (int i = 0; i < 4; i++) s[i] = HALVES(rows[i], rows[i + 4]);
  return NEIGHBOURS(PAIRS(s[0], s[2]), PAIRS(s[1], s[3]));
#else
  vec sums;
  for (int i = 0; i < V; i++) {
    sums[i] = 0;
    for (int lane = 0; lane < V; lane++) sums[i] += rows[i][lane];
  }
  return sums;
#endif
}

#endif
