// What a convolution's parameters learn from, in one pass over the images: the gradients of its kernel and bias and,
// where the convolution ends in a ReLU, the gradient behind it. For x86-64 with AMX (Intel's Sapphire Rapids and later),
// bfloat16 in, float32 out; "same" padding, stride 1, an odd size.
//
//   kernel[u, v, i, o] = sum over images and pixels (y, x) of image[y + u - pad, x + v - pad, i] * behind[y, x, o]
//
// is a product of matrices for every tap (u, v), summed over pixels. AMX multiplies tiles of 16 x 32 and 32 x 16 numbers:
// the gradient is packed with pixels along memory, 32 of them of 32 channels after another, and the images with channels
// along memory, two pixels side by side. Rows of pixels follow each other with zeros between them, images with `pad` rows
// of zeros, so that a tap is nothing but an offset; and since offsets may be odd, images are packed twice: with the pairs
// that begin at even pixels, and at odd ones. What is packed at a time is a part, which fits the second cache where there
// are few channels. Images may come in parts of 32 channels or a multiple, which follow each other. Every sum is taken in
// one order, whatever the number of threads: equal numbers in, equal bits out.

#include <cstring>
#include <vector>

#include "amx.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace {

using namespace tensorflow;
using namespace r2d2;

constexpr int64_t kSquare = kBlock * kBlock;
constexpr int64_t kPair = 2 * kBlock;  // numbers of 32 channels of two pixels
constexpr int64_t kCache = 512 << 10;  // bytes packed at a time
constexpr int64_t kPanel = 256;        // pixels of a panel that stays in the first cache
constexpr int64_t kGroups = 8;         // of parts, each with sums of its own: what threads can share out

__mmask32 First(int64_t n) { return n >= kBlock ? ~0u : (1u << n) - 1; }

// How two pixels' first 16 channels, and their second ones, come side by side.
__m512i Low() {
  return _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3,
                          34, 2, 33, 1, 32, 0);
}
__m512i High() { return _mm512_add_epi16(Low(), _mm512_set1_epi16(16)); }

// Transposes 32 rows of 32 numbers of 16 bits: within lanes of 8 by 8, then the lanes.
void Transpose(__m512i (&r)[32]) {
  __m512i a[8], b[8], out[32];
  for (int group = 0; group < 4; ++group) {
    __m512i* v = r + 8 * group;
    for (int i = 0; i < 4; ++i) {
      a[2 * i] = _mm512_unpacklo_epi16(v[2 * i], v[2 * i + 1]);
      a[2 * i + 1] = _mm512_unpackhi_epi16(v[2 * i], v[2 * i + 1]);
    }
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 2; ++i) {
        b[4 * half + 2 * i] = _mm512_unpacklo_epi32(a[4 * half + i], a[4 * half + 2 + i]);
        b[4 * half + 2 * i + 1] = _mm512_unpackhi_epi32(a[4 * half + i], a[4 * half + 2 + i]);
      }
    }
    for (int i = 0; i < 4; ++i) {
      v[2 * i] = _mm512_unpacklo_epi64(b[i], b[4 + i]);
      v[2 * i + 1] = _mm512_unpackhi_epi64(b[i], b[4 + i]);
    }
  }
  for (int i = 0; i < 8; ++i) {
    __m512i low = _mm512_shuffle_i32x4(r[i], r[8 + i], 0x44), high = _mm512_shuffle_i32x4(r[i], r[8 + i], 0xEE);
    __m512i low2 = _mm512_shuffle_i32x4(r[16 + i], r[24 + i], 0x44);
    __m512i high2 = _mm512_shuffle_i32x4(r[16 + i], r[24 + i], 0xEE);
    out[i] = _mm512_shuffle_i32x4(low, low2, 0x88);
    out[8 + i] = _mm512_shuffle_i32x4(low, low2, 0xDD);
    out[16 + i] = _mm512_shuffle_i32x4(high, high2, 0x88);
    out[24 + i] = _mm512_shuffle_i32x4(high, high2, 0xDD);
  }
  std::copy(out, out + 32, r);
}

// Sums the 32 x 32 square of one tap, four tiles one after another, over `pixels`, a multiple of 32: a row for each channel
// of the gradient. Of 16 channels of images or fewer, two tiles are enough.
template <bool few>
void Multiply(const bits* images, const bits* gradient, int64_t pixels, float* square, bool first) {
  Fence();
  if (first) {
    _tile_zero(0);
    _tile_zero(2);
    if (!few) {
      _tile_zero(1);
      _tile_zero(3);
    }
  } else {
    _tile_loadd(0, square, 64);
    _tile_loadd(2, square + 512, 64);
    if (!few) {
      _tile_loadd(1, square + 256, 64);
      _tile_loadd(3, square + 768, 64);
    }
  }
  for (int64_t p = 0; p < pixels; p += kBlock) {
    _tile_loadd(6, images + p / 2 * kPair, 2 * kPair);
    _tile_loadd(4, gradient + p * kBlock, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, gradient + p * kBlock + 512, 64);
    _tile_dpbf16ps(2, 5, 6);
    if (!few) {
      _tile_loadd(7, images + p / 2 * kPair + kBlock, 2 * kPair);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, square, 64);
  _tile_stored(2, square + 512, 64);
  if (!few) {
    _tile_stored(1, square + 256, 64);
    _tile_stored(3, square + 768, 64);
  }
  Fence();
}

class ConvolutionGradient : public OpKernel {
 public:
  explicit ConvolutionGradient(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("size", &size_));
    OP_REQUIRES_OK(context, context->GetAttr("relu", &relu_));
    OP_REQUIRES(context, size_ > 0 && size_ % 2 == 1, errors::InvalidArgument("size must be odd, not ", size_));
    OP_REQUIRES(context, Granted(), errors::Unavailable("the system does not grant AMX to this process"));
  }

  void Compute(OpKernelContext* context) override {
    OpInputList images;
    OP_REQUIRES_OK(context, context->input_list("images", &images));
    const Tensor &gradient = context->input(images.size()), &output = context->input(images.size() + 1);
    int64_t in = 0;
    for (const Tensor& some : images) {
      OP_REQUIRES(context, some.dims() == 4 && gradient.dims() == 4,
                  errors::InvalidArgument("images and gradient must have 4 dimensions"));
      for (int axis = 0; axis < 3; ++axis) {
        OP_REQUIRES(context, some.dim_size(axis) == gradient.dim_size(axis),
                    errors::InvalidArgument("images and gradient must be of one size"));
      }
      OP_REQUIRES(context, images.size() == 1 || some.dim_size(3) % kBlock == 0,
                  errors::InvalidArgument("parts must have 32 channels or a multiple"));
      in += some.dim_size(3);
    }
    OP_REQUIRES(context, !relu_ || output.shape() == gradient.shape(),
                errors::InvalidArgument("output and gradient must have one shape"));
    const int64_t count = gradient.dim_size(0), height = gradient.dim_size(1), width = gradient.dim_size(2);
    const int64_t out = gradient.dim_size(3), pad = size_ / 2, taps = size_ * size_;
    const int64_t in_blocks = Blocks(in), out_blocks = Blocks(out), pairs = in_blocks * out_blocks;
    const int64_t in_all = in_blocks * kBlock, out_all = out_blocks * kBlock;

    Tensor *kernel_sum, *bias_sum, *behind;
    OP_REQUIRES_OK(context, context->allocate_output(0, {size_, size_, in, out}, &kernel_sum));
    OP_REQUIRES_OK(context, context->allocate_output(1, {out}, &bias_sum));
    if (relu_) {
      OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({images.size()}, 2, gradient.shape(), &behind));
    } else {
      context->set_output(2, gradient);
    }
    if (in == 0 || gradient.NumElements() == 0) {
      kernel_sum->flat<float>().setZero();
      bias_sum->flat<float>().setZero();
      return;
    }
    const bits* gradient_at = reinterpret_cast<const bits*>(gradient.data());
    const bits* output_at = relu_ ? reinterpret_cast<const bits*>(output.data()) : nullptr;
    bits* behind_at = relu_ ? reinterpret_cast<bits*>(behind->data()) : nullptr;

    // A part is some images, or some rows of one. With few channels every thread takes parts of its own, from packing to
    // sums. With many, the sums are larger than what is packed: then the threads share out each of few parts.
    const int64_t sums = taps * pairs * kSquare * sizeof(float);
    const bool many = sums > kCache;
    const int64_t gap = std::max<int64_t>(pad, 1), pitch = width + gap;  // a gap of zeros, then a row of pixels
    const int64_t row_bytes = pitch * (2 * in_all + out_all) * sizeof(bits);
    const int64_t fit = std::max<int64_t>(1, (many ? sums : kCache) / row_bytes);
    const bool whole = fit >= height + pad;
    const int64_t part_images = whole ? std::clamp<int64_t>(fit / (height + pad), 1, count) : 1;
    const int64_t strips = whole ? 1 : (height + fit - 1) / fit, part_rows = (height + strips - 1) / strips;
    const int64_t segment = part_rows + pad;  // rows from one image of a part to the next
    const int64_t pixels = Blocks(part_images * segment * pitch) * kBlock;
    const int64_t pairs_size = (pixels / 2 + pad * (pitch + 1) + gap) * kPair, block = 2 * pairs_size;
    const int64_t parts = (count + part_images - 1) / part_images * strips;
    const int64_t groups = many ? 1 : std::min(kGroups, parts);

    const DeviceBase::CpuWorkerThreads& pool = *context->device()->tensorflow_cpu_worker_threads();
    const int64_t lanes = std::min<int64_t>(pool.num_threads, groups), packed_size = in_blocks * block + out_all * pixels;
    const int64_t kernel_size = taps * in_all * out_all, sums_size = kernel_size + out_all;
    Tensor packed_tensor, sums_tensor;
    OP_REQUIRES_OK(context, context->allocate_temp(DT_BFLOAT16, {lanes * packed_size}, &packed_tensor));
    OP_REQUIRES_OK(context, context->allocate_temp(DT_FLOAT, {groups * sums_size}, &sums_tensor));
    bits* packed = reinterpret_cast<bits*>(packed_tensor.data());
    float* group_sums = sums_tensor.flat<float>().data();
    float *kernel = kernel_sum->flat<float>().data(), *bias = bias_sum->flat<float>().data();
    // Where one group's sums have the result's own form, they are taken in place.
    const bool in_place = groups == 1 && in == in_all && out == out_all;

    const Run together = Together(pool);
    const Run spread = many ? together : Run(OneByOne);

    auto take = [&](int64_t number, bool first, bits* packed_images, float* kernel_at, float* bias_at) {
      const int64_t image = number / strips * part_images, top = number % strips * part_rows;
      const int64_t here = std::min(part_images, count - image), rows = std::min(part_rows, height - top);
      const int64_t used = Blocks(here * segment * pitch) * kBlock;
      bits* packed_gradient = packed_images + in_blocks * block;
      spread(here * segment + pad + out_blocks, [&](int64_t job) {
        if (job >= out_blocks) {
          const int64_t line = job - out_blocks, one = std::min(line / segment, here - 1);
          const int64_t from = top + line - one * segment - pad, at = ((image + one) * height + from) * width;
          bits* to = packed_images + line * pitch / 2 * kPair;
          for (const Tensor& some : images) {
            const int64_t channels = some.dim_size(3);
            const bits* values = reinterpret_cast<const bits*>(some.data()) + at * channels;
            for (int64_t channel = 0; channel < channels; channel += kBlock, to += block) {
              PackImageRow(from < 0 || from >= height ? nullptr : values + channel, channels,
                           First(channels - channel), width, gap, line * pitch % 2, pairs_size, to);
            }
          }
        } else {
          const int64_t channel = job * kBlock;
          const Part part = {image, here, top, rows, segment, height, width, pitch, out, channel};
          PackGradient(part, used, gradient_at, output_at, behind_at, packed_gradient + channel * pixels,
                       bias_at + channel);
        }
      });
      // For each pair of 32 channels, in and out: all taps of one panel after another, their squares close at hand.
      const int64_t jobs = many ? std::min<int64_t>(pairs, pool.num_threads) : 1;
      spread(jobs, [&](int64_t job) {
        Tiles tiles;
        std::vector<float> room(taps * kSquare + 16);
        float* squares = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(room.data()) + 63) / 64 * 64);
        for (int64_t pair = job * pairs / jobs; pair < (job + 1) * pairs / jobs; ++pair) {
          const int64_t from = pair / out_blocks * kBlock, to = pair % out_blocks * kBlock;
          const bits* of_images = packed_images + from / kBlock * block;
          for (int64_t p = 0; p < used; p += kPanel) {
            for (int64_t tap = 0; tap < taps; ++tap) {
              const int64_t offset = tap / size_ * pitch + tap % size_ + gap - pad;
              (in <= 16 ? Multiply<true> : Multiply<false>)(
                  of_images + offset % 2 * pairs_size + (p + offset) / 2 * kPair,
                  packed_gradient + to * pixels + p * kBlock, std::min(kPanel, used - p), squares + tap * kSquare,
                  p == 0);
            }
          }
          for (int64_t tap = 0; tap < taps; ++tap) {
            for (int64_t quarter = 0; quarter < (in <= 16 ? 3 : 4); quarter += in <= 16 ? 2 : 1) {
              const float* left = squares + tap * kSquare + quarter * 256;
              __m512i rows[16];
              for (int64_t o = 0; o < 16; ++o) rows[o] = _mm512_load_si512(left + 16 * o);
              Transpose16(rows);
              float* sum = kernel_at + (tap * in_all + from + quarter % 2 * 16) * out_all + to + quarter / 2 * 16;
              for (int64_t i = 0; i < 16; ++i, sum += out_all) {
                const __m512 before = first ? _mm512_setzero_ps() : _mm512_loadu_ps(sum);
                _mm512_storeu_ps(sum, _mm512_add_ps(before, (__m512)rows[i]));
              }
            }
          }
        }
      });
    };

    std::atomic<int64_t> next_lane(0), next_group(0);
    together(lanes, [&](int64_t) {
      bits* mine = packed + next_lane++ * packed_size;
      // What lies behind the last row is multiplied by zero, and must be a number.
      spread(in_blocks, [&](int64_t number) { std::memset(mine + number * block, 0, block * sizeof(bits)); });
      for (int64_t group; (group = next_group++) < groups;) {
        float* kernel_at = in_place ? kernel : group_sums + group * sums_size;
        float* bias_at = group_sums + group * sums_size + kernel_size;
        std::fill_n(bias_at, out_all, 0.0f);
        const int64_t begin = group * parts / groups, end = (group + 1) * parts / groups;
        for (int64_t number = begin; number < end; ++number) {
          take(number, number == begin, mine, kernel_at, bias_at);
        }
      }
    });

    std::fill_n(bias, out, 0.0f);
    for (int64_t group = 0; group < groups; ++group) {
      for (int64_t o = 0; o < out; ++o) bias[o] += group_sums[group * sums_size + kernel_size + o];
    }
    if (!in_place) {
      together(taps, [&](int64_t tap) {
        for (int64_t i = 0; i < in; ++i) {
          float* to = kernel + (tap * in + i) * out;
          std::fill_n(to, out, 0.0f);
          for (int64_t group = 0; group < groups; ++group) {
            const float* from = group_sums + group * sums_size + (tap * in_all + i) * out_all;
            for (int64_t o = 0; o < out; ++o) to[o] += from[o];
          }
        }
      });
    }
  }

 private:
  struct Part {
    int64_t image, images, top, rows, segment, height, width, pitch, channels, channel;
  };

  // A gap, then a row of 32 channels of an image, or of zeros: every pixel beside the next one, alternately to the pairs
  // that begin at even pixels and at odd ones. Behind the row lies the next one's gap.
  static void PackImageRow(const bits* from, int64_t channels, __mmask32 some, int64_t width, int64_t gap, bool odd,
                           int64_t pairs_size, bits* to) {
    auto put = [&](__m512i left, __m512i right) {
      bits* at = odd ? to + pairs_size : to;
      _mm512_storeu_si512(at, _mm512_permutex2var_epi16(left, Low(), right));
      _mm512_storeu_si512(at + kBlock, _mm512_permutex2var_epi16(left, High(), right));
      to += odd ? kPair : 0;
      odd = !odd;
    };
    const __m512i zero = _mm512_setzero_si512();
    if (!from) {
      for (int64_t x = 0; x < gap + width; ++x) put(zero, zero);
      return;
    }
    for (int64_t x = 1; x < gap; ++x) put(zero, zero);
    __m512i left = zero;
    for (int64_t x = 0; x < width; ++x, from += channels) {
      const __m512i right = _mm512_maskz_loadu_epi16(some, from);
      put(left, right);
      left = right;
    }
    put(left, zero);
  }

  // So many packed pixels of 32 channels: a row of 32 for each channel; what lies behind the ReLU; the bias' sums.
  static void PackGradient(const Part& part, int64_t pixels, const bits* gradient, const bits* output, bits* behind,
                           bits* to, float* bias) {
    const __mmask32 some = First(part.channels - part.channel);
    const __m512i zero = _mm512_setzero_si512(), odd = _mm512_set1_epi32(0xFFFF0000);
    __m512 even_sum = _mm512_setzero_ps(), odd_sum = _mm512_setzero_ps();
    int64_t x = 0, y = 0, one = 0;
    for (int64_t p = 0; p < pixels; p += kBlock, to += kSquare) {
      __m512i r[32];
      for (int64_t i = 0; i < kBlock;) {
        const bool real = x < part.width && y < part.rows && one < part.images;
        const int64_t end = std::min(kBlock, i + (real ? part.width : part.pitch) - x);
        int64_t at = (((part.image + one) * part.height + part.top + y) * part.width + x) * part.channels + part.channel;
        x += end - i;
        if (!real) {
          for (; i < end; ++i) r[i] = zero;
        } else {
          for (; i < end; ++i, at += part.channels) {
            __m512i value = _mm512_maskz_loadu_epi16(some, gradient + at);
            if (output) {  // as whole numbers, what is above zero is above zero
              const __m512i above = _mm512_maskz_loadu_epi16(some, output + at);
              value = _mm512_maskz_mov_epi16(_mm512_cmpgt_epi16_mask(above, zero), value);
              _mm512_mask_storeu_epi16(behind + at, some, value);
            }
            even_sum = _mm512_add_ps(even_sum, _mm512_castsi512_ps(_mm512_slli_epi32(value, 16)));
            odd_sum = _mm512_add_ps(odd_sum, _mm512_castsi512_ps(_mm512_and_si512(value, odd)));
            r[i] = value;
          }
        }
        if (x == part.pitch) {
          x = 0;
          if (++y == part.segment) {
            y = 0;
            ++one;
          }
        }
      }
      Transpose(r);
      for (int64_t i = 0; i < kBlock; ++i) _mm512_storeu_si512(to + i * kBlock, r[i]);
    }
    float sums[2][16];
    _mm512_storeu_ps(sums[0], even_sum);
    _mm512_storeu_ps(sums[1], odd_sum);
    for (int64_t i = 0; i < kBlock; ++i) bias[i] += sums[i % 2][i / 2];
  }

  int64_t size_;
  bool relu_;
};

REGISTER_OP("R2d2ConvolutionGradient")
    .Input("images: parts * bfloat16")
    .Input("gradient: bfloat16")
    .Input("output: bfloat16")
    .Attr("parts: int >= 1")
    .Attr("size: int")
    .Attr("relu: bool")
    .Output("kernel: float")
    .Output("bias: float")
    .Output("behind: bfloat16")
    .SetShapeFn([](shape_inference::InferenceContext* c) {
      int64_t size;
      TF_RETURN_IF_ERROR(c->GetAttr("size", &size));
      const int parts = c->num_inputs() - 2;
      shape_inference::ShapeHandle images, gradient;
      shape_inference::DimensionHandle in = c->MakeDim(0);
      for (int part = 0; part < parts; ++part) {
        TF_RETURN_IF_ERROR(c->WithRank(c->input(part), 4, &images));
        TF_RETURN_IF_ERROR(c->Add(in, c->Dim(images, 3), &in));
      }
      TF_RETURN_IF_ERROR(c->WithRank(c->input(parts), 4, &gradient));
      auto out = c->Dim(gradient, 3), side = c->MakeDim(size);
      c->set_output(0, c->MakeShape({side, side, in, out}));
      c->set_output(1, c->MakeShape({out}));
      c->set_output(2, c->input(parts));
      return OkStatus();
    });

REGISTER_KERNEL_BUILDER(Name("R2d2ConvolutionGradient").Device(DEVICE_CPU), ConvolutionGradient);

}  // namespace
