/* What a call of the sampling kernels is told; the mirror is in structs.py. Rows as in scan.h. */
#ifndef MMDEFMAMBA_SAMPLING_H
#define MMDEFMAMBA_SAMPLING_H

#include "rows.h"

typedef struct {
  int64_t images, height, width, channels, points;
  int64_t table_height, table_width;
  int64_t table_top, table_left, table_columns; /* the part of the table that `table` holds starts here, and its width */
  int64_t vectors_per_group; /* backward: vectors of channels of one task */
  Rows u;                    /* the map, (images, height * width, channels) */
  const float *at;           /* points, (y, x) in [-1, 1], (images, points, 2) */
  const float *table;        /* part of the offset bias, (rows * table_columns, channels), or NULL */
  const float *table_at;     /* where it is read for each point, like `at` */
  Output out;                /* (images, points, channels) */
  Rows dout;
  Output du; /* zeros at first */
  float *dtable; /* like `table`, zeros at first */
  float *dat, *dtable_at; /* (groups, images, points, 2): the sums over the channels of each group */
} Sample;

#endif
