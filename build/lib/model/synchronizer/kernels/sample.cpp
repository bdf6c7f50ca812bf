// Grid sampling of paged vectors, fused: softmax, bilinear corners, gather.
// The same function as `sample` in gather.py, which is its reference.
//
// One thread of work is one token and head. Work on images that a token does not see is never
// done. Of an image first all rows to read are listed, and fetched ahead of their use; then they
// are summed with the sums in registers. In bfloat16, where the processor multiplies it (AVX512-BF16),
// two rows at once; the shares are then rounded to bfloat16 as well, as in the reference.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

#ifdef __AVX512F__
constexpr int64_t kLane = 16;  // Channels of a vector.
#else
constexpr int64_t kLane = 8;
#endif
constexpr int64_t kLanes = 8;  // Vectors summed at once, all in registers.
constexpr int64_t kLine = 64;  // Bytes of a cache line.

typedef float Floats __attribute__((vector_size(kLane * sizeof(float))));
typedef uint32_t Words __attribute__((vector_size(kLane * sizeof(uint32_t))));
typedef uint16_t Halves __attribute__((vector_size(kLane * sizeof(uint16_t))));

struct BFloat16 {
  uint16_t bits;
  operator float() const {
    uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
  }
};

inline Floats load(const float* from) {
  Floats values;
  std::memcpy(&values, from, sizeof values);
  return values;
}

inline Floats load(const BFloat16* from) {
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  const Words wide = __builtin_convertvector(halves, Words) << 16;
  Floats values;
  std::memcpy(&values, &wide, sizeof values);
  return values;
}

#ifdef __AVX512BF16__

constexpr int64_t kSpan = 128;  // Channels of two rows summed at once, all in registers.

// The bfloat16 nearest to a number.
inline uint32_t nearest_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

// Adds `kSpan` channels of rows a, b, a, b, ... by pairs of shares; `rows(k)` is the k-th row.
template <typename Rows>
inline void add_pairs(const std::vector<uint32_t>& shares, Rows rows, float* out) {
  __m512 low[4], high[4];  // A register of interleaved rows holds channels in another order.
  for (int i = 0; i < 4; ++i) low[i] = high[i] = _mm512_setzero_ps();
  for (size_t k = 0; k < shares.size(); ++k) {
    const __m512bh share = (__m512bh)_mm512_set1_epi32(static_cast<int>(shares[k]));
    const BFloat16 *a = rows(2 * k), *b = rows(2 * k + 1);
    for (int i = 0; i < 4; ++i) {
      const __m512i x = _mm512_loadu_si512(a + 32 * i), y = _mm512_loadu_si512(b + 32 * i);
      low[i] = _mm512_dpbf16_ps(low[i], (__m512bh)_mm512_unpacklo_epi16(x, y), share);
      high[i] = _mm512_dpbf16_ps(high[i], (__m512bh)_mm512_unpackhi_epi16(x, y), share);
    }
  }
  const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i last = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  for (int i = 0; i < 4; ++i) {
    float* to = out + 32 * i;
    const __m512 x = _mm512_permutex2var_ps(low[i], first, high[i]);
    const __m512 y = _mm512_permutex2var_ps(low[i], last, high[i]);
    _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), x));
    _mm512_storeu_ps(to + 16, _mm512_add_ps(_mm512_loadu_ps(to + 16), y));
  }
}

#endif

}  // namespace

extern "C" {

// Mirrors `_Sizes` in cpp.py.
struct Sizes {
  int64_t tokens, heads, points, levels, channels, vectors_per_token, image_tokens;
  int64_t base_side, block_size, table_width, image_columns, query_width, tables, references;
  const int64_t* sides;
  const int64_t* starts;
};

struct Inputs {
  const float* query;          // [tokens, query_width]
  const float* relative;       // [relative positions, query_width]
  const void* features;        // [slots, tables, vectors_per_token, channels]
  const int64_t* request;      // [tokens]
  const int64_t* base;         // [tokens]
  const int64_t* count;        // [tokens]
  const int64_t* image_start;  // [requests, image_columns]
  const int64_t* block_table;  // [requests, table_width]
  const float* reference;      // [references, 2]
  float* out;                  // [tokens, heads, channels + 2]
};

}  // extern "C"

namespace {

template <typename Feature>
class Sampler {
 public:
  Sampler(const Sizes& sizes, const Inputs& inputs) : s_(sizes), in_(inputs) {
    // Divisions take longer than what is done with a corner: once for every vector of an image.
    for (int64_t token = 0; token < s_.image_tokens; ++token)
      for (int64_t k = 0; k < s_.vectors_per_token; ++k)
        places_.push_back({static_cast<int32_t>(token), static_cast<int32_t>(k * s_.channels)});
  }

  void run(int64_t token, int64_t head) {
    const int64_t base = in_.base[token], images = in_.count[token] - base;
    float* out = in_.out + (token * s_.heads + head) * (s_.channels + 2);
    std::fill(out, out + s_.channels + 2, 0.0f);
    out[s_.channels] = 1.0f;
    if (images <= 0) return;
    softmax(token, head, images, out[s_.channels]);
    const int64_t request = in_.request[token];
    for (int64_t image = 0; image < images; ++image) {
      find_rows(request, head, in_.image_start[request * s_.image_columns + base + image]);
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

  // Where the vectors lie that the head reads in each of the image's slots.
  void find_rows(int64_t request, int64_t head, int64_t start) {
    rows_.resize(s_.image_tokens);
    const int64_t* table = in_.block_table + request * s_.table_width;
    const int64_t width = s_.vectors_per_token * s_.channels;
    for (int64_t k = 0; k < s_.image_tokens; ++k) {
      const int64_t place = start + k;
      const int64_t slot = table[place / s_.block_size] * s_.block_size + place % s_.block_size;
      const int64_t list = slot * s_.tables + (s_.tables > 1 ? head : 0);
      rows_[k] = static_cast<const Feature*>(in_.features) + list * width;
    }
  }

  void sample_image(int64_t token, int64_t head, int64_t image, int64_t images, float* out) {
    const int64_t first = head * s_.points * 2;
    const float* query = in_.query + token * s_.query_width + first;
    const float* part = relative(image, images) + first;
    const float* weights = weights_.data() + image * s_.levels * s_.points;
    const float* reference = in_.reference + token % s_.references * 2;
    const float inverse = 1.0f / static_cast<float>(s_.base_side);
    corners_.clear();
    for (int64_t point = 0; point < s_.points; ++point) {
      const float x = reference[0] + (query[2 * point] + part[2 * point]) * inverse;
      const float y = reference[1] + (query[2 * point + 1] + part[2 * point + 1]) * inverse;
      for (int64_t level = 0; level < s_.levels; ++level)
        find_corners(level, x, y, weights[level * s_.points + point]);
    }
    add_corners(out);
  }

  // Lists the neighbours of a place on a map.
  void find_corners(int64_t level, float x, float y, float weight) {
    const int64_t side = s_.sides[level];
    const float edge = static_cast<float>(side);
    // Far outside, and not a number: nothing to add, and no cast that could overflow.
    x = x * edge - 0.5f;
    y = y * edge - 0.5f;
    if (!(x > -1.0f && x < edge && y > -1.0f && y < edge)) return;
    const float left = std::floor(x), top = std::floor(y);
    const int64_t column = static_cast<int64_t>(left), row = static_cast<int64_t>(top);
    const float right_share = x - left, bottom_share = y - top;
    for (int64_t down = 0; down < 2; ++down) {
      for (int64_t across = 0; across < 2; ++across) {
        const int64_t cx = column + across, cy = row + down;
        if (cx < 0 || cy < 0 || cx >= side || cy >= side) continue;
        const float share = weight * (across ? right_share : 1.0f - right_share) *
                            (down ? bottom_share : 1.0f - bottom_share);
        const int64_t vector = s_.starts[level] + cy * side + cx;
        const Place place = places_[vector];
        const Feature* corner = rows_[place.token] + place.offset;
        const char* bytes = reinterpret_cast<const char*>(corner);
        const int64_t end = s_.channels * static_cast<int64_t>(sizeof(Feature));
        for (int64_t at = 0; at < end; at += kLine) __builtin_prefetch(bytes + at, 0, 2);
        corners_.push_back({corner, share});
      }
    }
  }

  void add_corners(float* out) {
    for (const Corner& corner : corners_) out[s_.channels + 1] += corner.share;
    int64_t first = 0;
    if constexpr (std::is_same_v<Feature, BFloat16>) first = add_corner_pairs(out);
    for (; first + kLane * kLanes <= s_.channels; first += kLane * kLanes)
      add_channels<kLanes>(first, out);
    for (; first + kLane <= s_.channels; first += kLane) add_channels<1>(first, out);
    for (const Corner& corner : corners_)
      for (int64_t i = first; i < s_.channels; ++i) out[i] += corner.share * corner.values[i];
  }

  // Adds as many channels as the processor can add in pairs of rows, and returns their number.
  int64_t add_corner_pairs([[maybe_unused]] float* out) {
    int64_t first = 0;
#ifdef __AVX512BF16__
    if (corners_.size() % 2) corners_.push_back({corners_.back().values, 0.0f});
    shares_.resize(corners_.size() / 2);
    for (size_t k = 0; k < shares_.size(); ++k)
      shares_[k] = nearest_half(corners_[2 * k].share) |
                   nearest_half(corners_[2 * k + 1].share) << 16;
    for (; first + kSpan <= s_.channels; first += kSpan)
      add_pairs(shares_, [&](size_t k) { return corners_[k].values + first; }, out + first);
#endif
    return first;
  }

  template <int64_t Lanes>
  void add_channels(int64_t first, float* out) {
    Floats sums[Lanes];
    for (int64_t lane = 0; lane < Lanes; ++lane) sums[lane] = load(out + first + lane * kLane);
    for (const Corner& corner : corners_)
      for (int64_t lane = 0; lane < Lanes; ++lane)
        sums[lane] += corner.share * load(corner.values + first + lane * kLane);
    std::memcpy(out + first, sums, sizeof sums);
  }

  struct Place {
    int32_t token, offset;
  };

  struct Corner {
    const Feature* values;
    float share;
  };

  const Sizes& s_;
  const Inputs& in_;
  std::vector<float> weights_;
  std::vector<const Feature*> rows_;
  std::vector<Corner> corners_;
  std::vector<Place> places_;
  std::vector<uint32_t> shares_;  // Of two rows each, as bfloat16.
};

template <typename Feature>
void sample_all(const Sizes& sizes, const Inputs& inputs) {
#pragma omp parallel
  {
    Sampler<Feature> sampler(sizes, inputs);
#pragma omp for schedule(static)
    for (int64_t work = 0; work < sizes.tokens * sizes.heads; ++work)
      // Heads share the vectors of a token's images, or else tokens share those of a head's.
      if (sizes.tables == 1)
        sampler.run(work / sizes.heads, work % sizes.heads);
      else
        sampler.run(work % sizes.tokens, work / sizes.tokens);
  }
}

}  // namespace

extern "C" void mmi_sample(const Sizes* sizes, const Inputs* inputs, int32_t bfloat16) {
  if (bfloat16)
    sample_all<BFloat16>(*sizes, *inputs);
  else
    sample_all<float>(*sizes, *inputs);
}
