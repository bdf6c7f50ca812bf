// Deformable sampling out of the paged feature cache, fused: softmax, bilinear corners, gather.
// The same function as `sample` in sampling.py, which is its reference and describes it.
//
// One thread of work is one token and head. Work on images that a token does not see is never
// done, and nothing is stored between the logits and the weighted sum.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

struct BFloat16 {
  uint16_t bits;
  operator float() const {
    uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
  }
};

}  // namespace

extern "C" {

// Mirrors `_Sizes` in native.py.
struct Sizes {
  int64_t tokens, heads, points, levels, channels, vectors_per_token, image_tokens;
  int64_t base_side, block_size, table_width, image_columns, query_width;
  const int64_t* sides;
  const int64_t* starts;
};

struct Inputs {
  const float* query;          // [tokens, query_width]
  const float* relative;       // [relative positions, query_width]
  const void* features;        // [slots * vectors_per_token, channels]
  const int64_t* request;      // [tokens]
  const int64_t* base;         // [tokens]
  const int64_t* count;        // [tokens]
  const int64_t* image_start;  // [requests, image_columns]
  const int64_t* block_table;  // [requests, table_width]
  float* out;                  // [heads, tokens, channels + 2]
};

}  // extern "C"

namespace {

template <typename Feature>
class Sampler {
 public:
  Sampler(const Sizes& sizes, const Inputs& inputs) : s_(sizes), in_(inputs) {}

  void run(int64_t token, int64_t head) {
    const int64_t base = in_.base[token], images = in_.count[token] - base;
    float* out = in_.out + (head * s_.tokens + token) * (s_.channels + 2);
    std::fill(out, out + s_.channels + 1, 0.0f);
    out[s_.channels + 1] = 1.0f;
    if (images <= 0) return;
    softmax(token, head, images, out[s_.channels + 1]);
    const int64_t request = in_.request[token];
    for (int64_t image = 0; image < images; ++image) {
      find_rows(request, in_.image_start[request * s_.image_columns + base + image]);
      sample_image(token, head, image, images, out);
    }
  }

 private:
  // The image's part of a query: the newest image in sight has relative position 1.
  const float* relative(int64_t image, int64_t images) const {
    return in_.relative + (images - image) * s_.query_width;
  }

  void softmax(int64_t token, int64_t head, int64_t images, float& ignored) {
    const int64_t per_head = s_.levels * s_.points;
    const int64_t first = s_.heads * s_.points * 2 + head * per_head;
    const float* query = in_.query + token * s_.query_width + first;
    weights_.resize(images * per_head);
    float highest = 0.0f;  // The ignore token's logit.
    for (int64_t image = 0; image < images; ++image) {
      const float* part = relative(image, images) + first;
      for (int64_t k = 0; k < per_head; ++k) {
        const float logit = query[k] + part[k];
        weights_[image * per_head + k] = logit;
        highest = std::max(highest, logit);
      }
    }
    const float ignore = std::exp(-highest);
    float total = ignore;
    for (float& weight : weights_) total += weight = std::exp(weight - highest);
    const float scale = 1.0f / total;
    for (float& weight : weights_) weight *= scale;
    ignored = ignore * scale;
  }

  // Where the image's placeholders lie in the cache.
  void find_rows(int64_t request, int64_t start) {
    rows_.resize(s_.image_tokens);
    const int64_t* table = in_.block_table + request * s_.table_width;
    const int64_t width = s_.vectors_per_token * s_.channels;
    for (int64_t k = 0; k < s_.image_tokens; ++k) {
      const int64_t place = start + k;
      const int64_t slot = table[place / s_.block_size] * s_.block_size + place % s_.block_size;
      rows_[k] = static_cast<const Feature*>(in_.features) + slot * width;
    }
  }

  void sample_image(int64_t token, int64_t head, int64_t image, int64_t images, float* out) {
    const int64_t first = head * s_.points * 2;
    const float* query = in_.query + token * s_.query_width + first;
    const float* part = relative(image, images) + first;
    const float* weights = weights_.data() + image * s_.levels * s_.points;
    const float inverse = 1.0f / static_cast<float>(s_.base_side);
    for (int64_t point = 0; point < s_.points; ++point) {
      const float x = 0.5f + (query[2 * point] + part[2 * point]) * inverse;
      const float y = 0.5f + (query[2 * point + 1] + part[2 * point + 1]) * inverse;
      for (int64_t level = 0; level < s_.levels; ++level)
        sample_place(level, x, y, weights[level * s_.points + point], out);
    }
  }

  void sample_place(int64_t level, float x, float y, float weight, float* out) {
    const int64_t side = s_.sides[level];
    const float edge = static_cast<float>(side);
    // Far outside, and not a number: nothing to add, and no cast that could overflow.
    x = x * edge - 0.5f;
    y = y * edge - 0.5f;
    if (!(x > -1.0f && x < edge && y > -1.0f && y < edge)) return;
    const float left = std::floor(x), top = std::floor(y);
    const int64_t column = static_cast<int64_t>(left), row = static_cast<int64_t>(top);
    const float right_share = x - left, bottom_share = y - top;
    const Feature* corners[4];
    float shares[4];
    int used = 0;
    for (int64_t down = 0; down < 2; ++down) {
      for (int64_t across = 0; across < 2; ++across) {
        const int64_t cx = column + across, cy = row + down;
        if (cx < 0 || cy < 0 || cx >= side || cy >= side) continue;
        const float share = (across ? right_share : 1.0f - right_share) *
                            (down ? bottom_share : 1.0f - bottom_share);
        const int64_t vector = s_.starts[level] + cy * side + cx;
        corners[used] = rows_[vector / s_.vectors_per_token] +
                        (vector % s_.vectors_per_token) * s_.channels;
        shares[used++] = share * weight;
      }
    }
    for (int k = 0; k < used; ++k) out[s_.channels] += shares[k];
    if (used == 4) {
      const Feature *a = corners[0], *b = corners[1], *c = corners[2], *d = corners[3];
      const float wa = shares[0], wb = shares[1], wc = shares[2], wd = shares[3];
      for (int64_t i = 0; i < s_.channels; ++i)
        out[i] += wa * a[i] + wb * b[i] + wc * c[i] + wd * d[i];
      return;
    }
    for (int k = 0; k < used; ++k)
      for (int64_t i = 0; i < s_.channels; ++i) out[i] += shares[k] * corners[k][i];
  }

  const Sizes& s_;
  const Inputs& in_;
  std::vector<float> weights_;
  std::vector<const Feature*> rows_;
};

template <typename Feature>
void sample_all(const Sizes& sizes, const Inputs& inputs) {
#pragma omp parallel
  {
    Sampler<Feature> sampler(sizes, inputs);
#pragma omp for schedule(static)
    for (int64_t work = 0; work < sizes.tokens * sizes.heads; ++work)
      sampler.run(work / sizes.heads, work % sizes.heads);
  }
}

}  // namespace

extern "C" void mmi_sample(const Sizes* sizes, const Inputs* inputs, int32_t bfloat16) {
  if (bfloat16)
    sample_all<BFloat16>(*sizes, *inputs);
  else
    sample_all<float>(*sizes, *inputs);
}
