/* Deformable attention of one level set, forward and backward, on the CPU.
 *
 * Shapes, all float32 and contiguous:
 *   value      (B, S, H, D)     S positions of all levels, one after the other
 *   locations  (B, Q, H, L, P, 2)  x and y as fractions of a level
 *   weights    (B, Q, H, L, P)
 *   output     (B, Q, H, D)
 *   shapes     (L, 2) int64     height and width of each level
 * A sample between pixel centres is bilinear; outside the map is zero, as in grid_sample with
 * align_corners=False. The D channels of one position lie side by side, which makes the inner
 * loops vector instructions.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifndef D
#define D 16
#endif

typedef struct {
    int64_t offset[4];
    float share[4], dx[4], dy[4];
    int inside[4];
} corners;

static void find_corners(corners *c, float fx, float fy, int64_t height, int64_t width,
                         int64_t stride) {
    float x = fx * width - 0.5f, y = fy * height - 0.5f;
    float x0 = floorf(x), y0 = floorf(y);
    float ax = x - x0, ay = y - y0;
    for (int k = 0; k < 4; k++) {
        int right = k & 1, low = k >> 1;
        float wx = right ? ax : 1 - ax, wy = low ? ay : 1 - ay;
        float cx = x0 + right, cy = y0 + low;
        c->inside[k] = cx >= 0 && cy >= 0 && cx < width && cy < height;
        c->offset[k] = c->inside[k] ? ((int64_t)cy * width + (int64_t)cx) * stride : 0;
        c->share[k] = wx * wy;
        c->dx[k] = (right ? 1.0f : -1.0f) * wy * width;
        c->dy[k] = (low ? 1.0f : -1.0f) * wx * height;
    }
}

void forward(const float *value, const float *locations, const float *weights,
             const int64_t *shapes, float *output, int64_t B, int64_t S, int64_t H, int64_t L,
             int64_t P, int64_t Q) {
    int64_t stride = H * D;
    for (int64_t b = 0; b < B; b++)
        for (int64_t q = 0; q < Q; q++)
            for (int64_t h = 0; h < H; h++) {
                int64_t at = (b * Q + q) * H + h;
                const float *place = locations + at * L * P * 2, *weight = weights + at * L * P;
                float sum[D] = {0};
                const float *plane = value + (b * S * H + h) * D;
                for (int64_t l = 0; l < L; l++) {
                    int64_t height = shapes[2 * l], width = shapes[2 * l + 1];
                    for (int64_t p = 0; p < P; p++, place += 2, weight++) {
                        corners c;
                        find_corners(&c, place[0], place[1], height, width, stride);
                        for (int k = 0; k < 4; k++) {
                            if (!c.inside[k]) continue;
                            const float *v = plane + c.offset[k];
                            float share = c.share[k] * *weight;
                            for (int d = 0; d < D; d++) sum[d] += share * v[d];
                        }
                    }
                    plane += height * width * stride;
                }
                memcpy(output + at * D, sum, sizeof sum);
            }
}

void backward(const float *value, const float *locations, const float *weights,
              const int64_t *shapes, const float *grad, float *grad_value, float *grad_locations,
              float *grad_weights, int64_t B, int64_t S, int64_t H, int64_t L, int64_t P,
              int64_t Q) {
    int64_t stride = H * D;
    for (int64_t b = 0; b < B; b++)
        for (int64_t q = 0; q < Q; q++)
            for (int64_t h = 0; h < H; h++) {
                int64_t at = (b * Q + q) * H + h, first = at * L * P;
                const float *g = grad + at * D;
                int64_t start = (b * S * H + h) * D;
                for (int64_t l = 0; l < L; l++) {
                    int64_t height = shapes[2 * l], width = shapes[2 * l + 1];
                    for (int64_t p = 0; p < P; p++, first++) {
                        corners c;
                        find_corners(&c, locations[2 * first], locations[2 * first + 1], height,
                                     width, stride);
                        float by_weight = 0, by_x = 0, by_y = 0, weight = weights[first];
                        for (int k = 0; k < 4; k++) {
                            if (!c.inside[k]) continue;
                            const float *v = value + start + c.offset[k];
                            float *gv = grad_value + start + c.offset[k];
                            float dot = 0, share = c.share[k] * weight;
                            for (int d = 0; d < D; d++) {
                                dot += g[d] * v[d];
                                gv[d] += share * g[d];
                            }
                            by_weight += c.share[k] * dot;
                            by_x += c.dx[k] * dot;
                            by_y += c.dy[k] * dot;
                        }
                        grad_weights[first] = by_weight;
                        grad_locations[2 * first] = by_x * weight;
                        grad_locations[2 * first + 1] = by_y * weight;
                    }
                    start += height * width * stride;
                }
            }
}
