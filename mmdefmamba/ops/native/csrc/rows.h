/* Rows of channels: maps as the kernels read and write them. A map is (images, tokens, channels) with dense channels,
   reached through a stride per image and one per token. Strides count floats. */
#ifndef MMDEFMAMBA_ROWS_H
#define MMDEFMAMBA_ROWS_H

#include "vectors.h"

typedef struct {
  const float *data;
  int64_t image, token;
} Rows;

typedef struct {
  float *data;
  int64_t image, token;
} Output;

INLINE const float *row(const Rows *rows, int64_t image, int64_t token) {
  return rows->data + image * rows->image + token * rows->token;
}

INLINE float *output_row(const Output *rows, int64_t image, int64_t token) {
  return rows->data + image * rows->image + token * rows->token;
}

INLINE int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* The last vector of a row may have fewer than V channels. */
INLINE int lanes_at(int64_t channels, int64_t vector) {
  const int64_t rest = channels - vector * V;
  return rest < V ? (int)rest : V;
}

#endif
