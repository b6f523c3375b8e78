/* Bilinear reads of a map at points, and of the offset bias: one pass over the channels of each point.

   -1 and 1 are the centres of the first and the last pixel. What lies outside of a map counts as zero. */
#include "sampling.h"

/* The pixels around a point that are inside of the map, up to four: index, weight, and what the weight changes by when
   the point moves one pixel. The index counts from the pixel (row0, column0). A point that is NaN has weights of NaN, so that it reaches the result. */
typedef struct {
  int count;
  int64_t pixel[4];
  float weight[4], along_y[4], along_x[4];
} Corners;

INLINE int is_nan(float x) { return x != x; }

INLINE Corners corners(const float *point, int64_t height, int64_t width, int64_t row0, int64_t column0,
                       int64_t columns) {
  const float y = (point[0] + 1) * 0.5f * (height - 1), x = (point[1] + 1) * 0.5f * (width - 1);
  const float top = __builtin_floorf(y), left = __builtin_floorf(x), down = y - top, right = x - left;
  Corners c;
  c.count = 0;
  for (int i = 0; i < 4; i++) {
    const int lower = i >> 1, later = i & 1;
    const float row_number = top + lower, column = left + later;
    const float row_weight = lower ? down : 1 - down, column_weight = later ? right : 1 - right;
    const int inside = row_number >= 0 && row_number <= height - 1 && column >= 0 && column <= width - 1;
    if (!inside && !is_nan(row_weight * column_weight)) continue;
    c.pixel[c.count] = inside ? ((int64_t)row_number - row0) * columns + (int64_t)column - column0 : 0;
    c.weight[c.count] = row_weight * column_weight;
    c.along_y[c.count] = lower ? column_weight : -column_weight;
    c.along_x[c.count++] = later ? row_weight : -row_weight;
  }
  return c;
}

INLINE Corners map_corners(const Sample *call, const float *point) {
  return corners(point, call->height, call->width, 0, 0, call->width);
}

/* All points of a table lie in the part of it that is at hand. */
INLINE Corners table_corners(const Sample *call, const float *point) {
  const int64_t top = call->table_top, left = call->table_left;
  return corners(point, call->table_height, call->table_width, top, left, call->table_columns);
}

#define POINTS_PER_TASK 64

void sample_forward(const Sample *call, int64_t task) {
  const int64_t tasks_per_image = divided_up(call->points, POINTS_PER_TASK), image = task / tasks_per_image;
  const int64_t first = task % tasks_per_image * POINTS_PER_TASK, C = call->channels;
  const int64_t end = first + POINTS_PER_TASK < call->points ? first + POINTS_PER_TASK : call->points;
  for (int64_t p = first; p < end; p++) {
    const int64_t number = (image * call->points + p) * 2;
    const Corners c = map_corners(call, call->at + number);
    Corners t = {.count = 0};
    const float *read[8];
    float weight[8];
    if (call->table) t = table_corners(call, call->table_at + number);
    const int count = c.count + t.count;
    for (int i = 0; i < c.count; i++) read[i] = row(&call->u, image, c.pixel[i]), weight[i] = c.weight[i];
    for (int i = 0; i < t.count; i++) {
      read[c.count + i] = call->table + t.pixel[i] * C;
      weight[c.count + i] = t.weight[i];
    }
    float *out = output_row(&call->out, image, p);
    for (int64_t v = 0; v * V < C; v++) {
      const int lanes = lanes_at(C, v);
      vec sum = {0};
      if (count == 8 && lanes == V) { /* nearly every point and vector */
        UNROLL for (int i = 0; i < 8; i++) sum += load(read[i] + v * V) * weight[i];
      } else {
        for (int i = 0; i < count; i++) sum += load_lanes(read[i] + v * V, lanes) * weight[i];
      }
      store_lanes(out + v * V, sum, lanes);
    }
  }
}

INLINE float sum_of_lanes(vec x) {
  float sum = 0;
  for (int lane = 0; lane < V; lane++) sum += x[lane];
  return sum;
}

/* Write the gradient of a point: what the result changes by when it moves one pixel, times pixels per coordinate. */
INLINE void write_point_gradient(float *out, vec along_y, vec along_x, int64_t height, int64_t width) {
  out[0] = sum_of_lanes(along_y) * 0.5f * (height - 1);
  out[1] = sum_of_lanes(along_x) * 0.5f * (width - 1);
}

/* Gradients of the map and of the points. A task has some channels of one image to itself. */
void sample_backward(const Sample *call, int64_t task) {
  const int64_t C = call->channels, vectors = divided_up(C, V);
  const int64_t groups = divided_up(vectors, call->vectors_per_group), group = task % groups, image = task / groups;
  const int64_t first = group * call->vectors_per_group;
  const int64_t end = first + call->vectors_per_group < vectors ? first + call->vectors_per_group : vectors;
  for (int64_t p = 0; p < call->points; p++) {
    const int64_t number = (image * call->points + p) * 2;
    const int64_t written = ((group * call->images + image) * call->points + p) * 2;
    const Corners c = map_corners(call, call->at + number);
    const float *pixels[4], *dout = row(&call->dout, image, p);
    float *gradients[4];
    vec along_y = {0}, along_x = {0};
    for (int i = 0; i < c.count; i++) {
      pixels[i] = row(&call->u, image, c.pixel[i]);
      gradients[i] = output_row(&call->du, image, c.pixel[i]);
    }
    for (int64_t v = first; v < end; v++) {
      const int lanes = lanes_at(C, v);
      const vec g = load_lanes(dout + v * V, lanes);
      for (int i = 0; i < c.count; i++) {
        const vec g_times_u = g * load_lanes(pixels[i] + v * V, lanes);
        along_y += g_times_u * c.along_y[i];
        along_x += g_times_u * c.along_x[i];
        if (is_nan(c.weight[i])) continue; /* no pixel was read */
        float *du = gradients[i] + v * V;
        store_lanes(du, load_lanes(du, lanes) + g * c.weight[i], lanes);
      }
    }
    write_point_gradient(call->dat + written, along_y, along_x, call->height, call->width);
    if (!call->table) continue;

    const Corners t = table_corners(call, call->table_at + number);
    along_y = along_x = broadcast(0);
    for (int64_t v = first; v < end; v++) {
      const int lanes = lanes_at(C, v);
      const vec g = load_lanes(dout + v * V, lanes);
      for (int i = 0; i < t.count; i++) {
        const vec g_times_entry = g * load_lanes(call->table + t.pixel[i] * C + v * V, lanes);
        along_y += g_times_entry * t.along_y[i];
        along_x += g_times_entry * t.along_x[i];
      }
    }
    write_point_gradient(call->dtable_at + written, along_y, along_x, call->table_height, call->table_width);
  }
}

/* The gradient of the offset bias. All images add to one table: a task has some channels of it to itself. */
void sample_backward_table(const Sample *call, int64_t task) {
  const int64_t C = call->channels, vectors = divided_up(C, V), first = task * call->vectors_per_group;
  const int64_t end = first + call->vectors_per_group < vectors ? first + call->vectors_per_group : vectors;
  for (int64_t image = 0; image < call->images; image++) {
    for (int64_t p = 0; p < call->points; p++) {
      const float *at = call->table_at + (image * call->points + p) * 2, *dout = row(&call->dout, image, p);
      const Corners t = table_corners(call, at);
      for (int64_t v = first; v < end; v++) {
        const int lanes = lanes_at(C, v);
        const vec g = load_lanes(dout + v * V, lanes);
        for (int i = 0; i < t.count && !is_nan(t.weight[i]); i++) {
          float *entry = call->dtable + t.pixel[i] * C + v * V;
          store_lanes(entry, load_lanes(entry, lanes) + g * t.weight[i], lanes);
        }
      }
    }
  }
}
