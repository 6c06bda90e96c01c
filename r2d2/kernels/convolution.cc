// A convolution, and the gradient of its images, which is one too: with the kernel turned around. For x86-64 with AMX,
// bfloat16 in and out, the kernel and the bias in float32; "same" padding, stride 1, an odd size, channels in multiples of
// 32. Images may come in parts, whose channels follow each other, and so may what is computed: nobody has to put them
// together or take them apart.
//
//   output[y, x, o] = bias[o] + sum over taps (u, v) and channels of image[y + u - pad, x + v - pad, i] * kernel[u, v, i, o]
//
// AMX multiplies tiles of 16 pixels x 32 channels, as they lie in memory, and 32 x 16 weights, two channels side by side:
// so the kernel is packed. Images are laid into a field with `pad` zeros between rows and `pad` rows of zeros between
// images, so that a tap is nothing but an offset. With few channels the threads share out fields of some images, or some
// rows of one, that fit the second cache; with many, one field of all, of which each thread computes other channels, whose
// weights it packs at once. Each number is a sum in one order, wherever it is computed: equal numbers in, equal bits out.

#include <cstring>
#include <limits>
#include <vector>

#include "amx.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace {

using namespace tensorflow;
using namespace r2d2;

constexpr int64_t kField = 768 << 10;   // bytes of a field where there are few channels
constexpr int64_t kKernel = 700 << 10;  // bytes of a packed kernel that there are few channels up to
constexpr int64_t kTile = 16 * kBlock;  // numbers of a tile

// 32 numbers, the second 16 of them behind the first.
__m512i Narrow(__m512 first, __m512 second) { return (__m512i)_mm512_cvtne2ps_pbh(second, first); }

// 32 numbers of output of 32 pixels: four tiles, summed over the taps and 32 channels after another.
void Multiply(const bits* field, int64_t in, int64_t pitch, int64_t size, const bits* kernel, float* square) {
  Fence();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t u = 0; u < size; ++u) {
    for (int64_t v = 0; v < size; ++v) {
      const bits* tap = field + (u * pitch + v) * in;
      for (int64_t i = 0; i < in; i += kBlock, kernel += 2 * kTile) {
        _tile_loadd(6, kernel, 64);
        _tile_loadd(4, tap + i, 2 * in);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, kernel + kTile, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, tap + 16 * in + i, 2 * in);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
  }
  _tile_stored(0, square, 128);
  _tile_stored(1, square + 16, 128);
  _tile_stored(2, square + 512, 128);
  _tile_stored(3, square + 528, 128);
  Fence();
}

// Channels of images, and where they lie.
struct Part {
  bits* at;
  int64_t channels;
};

class Convolution {
 public:
  Convolution(int64_t count, int64_t height, int64_t width, int64_t size, std::vector<Part> from, std::vector<Part> to,
              const float* kernel, const float* bias, bool relu, bool turned)
      : count_(count), height_(height), width_(width), size_(size), pad_(size / 2), pitch_(width + size / 2),
        from_(std::move(from)), to_(std::move(to)), kernel_(kernel), bias_(bias), relu_(relu), turned_(turned) {
    for (const Part& part : from_) in_ += part.channels;
    for (const Part& part : to_) out_ += part.channels;
  }

  Status Compute(OpKernelContext* context) {
    const DeviceBase::CpuWorkerThreads& pool = *context->device()->tensorflow_cpu_worker_threads();
    const Run together = Together(pool);
    const int64_t blocks = out_ / kBlock, block = size_ * size_ * in_ * kBlock;
    const bool few = blocks * block * sizeof(bits) <= kKernel;
    const int64_t lines = std::max<int64_t>(kField / (pitch_ * in_ * sizeof(bits)), 1);
    const int64_t share = (count_ + pool.num_threads - 1) / pool.num_threads;
    const bool whole = !few || lines >= height_ + pad_;
    const int64_t images = few ? std::clamp<int64_t>(lines / (height_ + pad_), 1, share) : count_;
    const int64_t strips = whole ? 1 : (height_ + lines - 1) / lines, rows = (height_ + strips - 1) / strips;
    const int64_t fields = (count_ + images - 1) / images * strips;
    const int64_t lanes = std::min<int64_t>(pool.num_threads, few ? fields : blocks);
    const int64_t field = (Blocks(images * (rows + pad_) * pitch_) * kBlock + 2 * pad_ * (pitch_ + 1)) * in_;
    Tensor fields_room, kernels_room;
    TF_RETURN_IF_ERROR(context->allocate_temp(DT_BFLOAT16, {(few ? lanes : 1) * field}, &fields_room));
    TF_RETURN_IF_ERROR(context->allocate_temp(DT_BFLOAT16, {(few ? blocks : lanes) * block}, &kernels_room));
    bits* field_at = reinterpret_cast<bits*>(fields_room.data());
    bits* kernel_at = reinterpret_cast<bits*>(kernels_room.data());
    std::atomic<int64_t> next_lane(0), next(0);
    if (few) {
      together(blocks, [&](int64_t number) { PackKernel(number, kernel_at + number * block); });
      together(lanes, [&](int64_t) {
        bits* mine = field_at + next_lane++ * field;
        Tiles tiles;
        for (int64_t number; (number = next++) < fields;) {
          const int64_t image = number / strips * images, top = number % strips * rows;
          const Field some = {image, std::min(images, count_ - image), top, std::min(rows, height_ - top), rows + pad_};
          OneByOne(Lines(some), [&](int64_t line) { Lay(some, line, mine); });
          for (int64_t b = 0; b < blocks; ++b) ComputeBlock(some, b, mine, kernel_at + b * block);
        }
      });
    } else {
      const Field all = {0, count_, 0, height_, height_ + pad_};
      together(Lines(all), [&](int64_t line) { Lay(all, line, field_at); });
      together(lanes, [&](int64_t) {
        bits* mine = kernel_at + next_lane++ * block;
        Tiles tiles;
        for (int64_t b; (b = next++) < blocks;) {
          PackKernel(b, mine);
          ComputeBlock(all, b, field_at, mine);
        }
      });
    }
    return OkStatus();
  }

 private:
  // So many images, or rows of one from `top` on; images begin `segment` lines apart.
  struct Field {
    int64_t image, images, top, rows, segment;
  };

  int64_t Lines(const Field& field) const { return field.images * field.segment + pad_; }

  // A line of a field: zeros, then a row of an image, or of zeros. Behind the last one come the zeros it ends with.
  void Lay(const Field& field, int64_t line, bits* at) const {
    const int64_t one = std::min(line / field.segment, field.images - 1);
    const int64_t row = field.top + line - one * field.segment - pad_;
    bits* to = at + line * pitch_ * in_;
    std::memset(to, 0, pad_ * in_ * sizeof(bits));
    to += pad_ * in_;
    if (line == Lines(field) - 1) std::memset(to + width_ * in_, 0, pad_ * in_ * sizeof(bits));
    if (row < 0 || row >= height_) {
      std::memset(to, 0, width_ * in_ * sizeof(bits));
      return;
    }
    for (const Part& part : from_) {
      const bits* from = part.at + ((field.image + one) * height_ + row) * width_ * part.channels;
      if (from_.size() == 1) {
        std::memcpy(to, from, width_ * in_ * sizeof(bits));
        return;
      }
      for (int64_t x = 0; x < width_; ++x) {
        for (int64_t i = 0; i < part.channels; i += kBlock) {
          _mm512_storeu_si512(to + x * in_ + i, _mm512_loadu_si512(from + x * part.channels + i));
        }
      }
      to += part.channels;
    }
  }

  // The weights of 32 channels of output: for each tap and 32 channels of input two tiles of 16 pairs x 16.
  void PackKernel(int64_t block, bits* to) const {
    const __m512i zip = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const int64_t taps = size_ * size_;
    for (int64_t tap = 0; tap < taps; ++tap) {
      for (int64_t i = 0; i < in_; i += kBlock) {
        for (int64_t o = block * kBlock; o < (block + 1) * kBlock; o += 16, to += kTile) {
          if (turned_) {
            const float* from = kernel_ + ((taps - 1 - tap) * out_ + o) * in_ + i;
            __m512i r[16];
            for (int64_t row = 0; row < 16; ++row, from += in_) {
              r[row] = Narrow(_mm512_loadu_ps(from), _mm512_loadu_ps(from + 16));
            }
            Transpose16(r);
            for (int64_t pair = 0; pair < 16; ++pair) _mm512_storeu_si512(to + pair * kBlock, r[pair]);
          } else {
            const float* from = kernel_ + (tap * in_ + i) * out_ + o;
            for (int64_t pair = 0; pair < 16; ++pair, from += 2 * out_) {
              const __m512i two = Narrow(_mm512_loadu_ps(from), _mm512_loadu_ps(from + out_));
              _mm512_storeu_si512(to + pair * kBlock, _mm512_permutexvar_epi16(zip, two));
            }
          }
        }
      }
    }
  }

  // 32 channels of output of a field.
  void ComputeBlock(const Field& field, int64_t block, const bits* at, const bits* kernel) const {
    const Part* to = to_.data();
    int64_t channel = block * kBlock;
    while (channel >= to->channels) channel -= to++->channels;
    const __m512 zero = _mm512_setzero_ps(), floor = relu_ ? zero : _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    const __m512 bias[2] = {bias_ ? _mm512_loadu_ps(bias_ + block * kBlock) : zero,
                            bias_ ? _mm512_loadu_ps(bias_ + block * kBlock + 16) : zero};
    alignas(64) float square[kBlock * kBlock];
    int64_t x = 0, y = 0, one = 0;
    for (int64_t p = 0; one < field.images; p += kBlock) {
      Multiply(at + p * in_, in_, pitch_, size_, kernel, square);
      for (int64_t i = 0; i < kBlock && one < field.images; ++i) {
        if (x < width_ && y < field.rows) {
          // The larger of two where the second is no number is the second: what is no number stays so.
          const __m512 low = _mm512_max_ps(floor, _mm512_add_ps(_mm512_load_ps(square + i * kBlock), bias[0]));
          const __m512 high = _mm512_max_ps(floor, _mm512_add_ps(_mm512_load_ps(square + i * kBlock + 16), bias[1]));
          const int64_t place = ((field.image + one) * height_ + field.top + y) * width_ + x;
          _mm512_storeu_si512(to->at + place * to->channels + channel, Narrow(low, high));
        }
        if (++x == pitch_) {
          x = 0;
          if (++y == field.segment) {
            y = 0;
            ++one;
          }
        }
      }
    }
  }

  const int64_t count_, height_, width_, size_, pad_, pitch_;
  const std::vector<Part> from_, to_;
  const float *kernel_, *bias_;
  const bool relu_, turned_;
  int64_t in_ = 0, out_ = 0;
};

Status Check(const Tensor& images) {
  if (images.dims() != 4 || images.dim_size(3) == 0 || images.dim_size(3) % kBlock) {
    return errors::InvalidArgument("channels must be a multiple of 32 of 4 dimensions, not of shape ",
                                   images.shape().DebugString());
  }
  return OkStatus();
}

Status CheckKernel(const Tensor& kernel, int64_t in, int64_t out) {
  const int64_t size = kernel.dims() == 4 ? kernel.dim_size(0) : 0;
  if (size % 2 == 0 || kernel.shape() != TensorShape({size, size, in, out})) {
    return errors::InvalidArgument("a kernel of odd size of ", in, " and ", out, " channels is wanted, not of shape ",
                                   kernel.shape().DebugString());
  }
  return OkStatus();
}

bits* At(const Tensor& tensor) { return reinterpret_cast<bits*>(tensor.data()); }

class ConvolutionOp : public OpKernel {
 public:
  explicit ConvolutionOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("relu", &relu_));
    OP_REQUIRES(context, Granted(), errors::Unavailable("the system does not grant AMX to this process"));
  }

  void Compute(OpKernelContext* context) override {
    OpInputList images;
    OP_REQUIRES_OK(context, context->input_list("images", &images));
    const Tensor &kernel = context->input(images.size()), &bias = context->input(images.size() + 1);
    std::vector<Part> from;
    int64_t in = 0;
    TensorShape shape = images[0].shape();
    for (const Tensor& some : images) {
      OP_REQUIRES_OK(context, Check(some));
      shape.set_dim(3, some.dim_size(3));
      OP_REQUIRES(context, some.shape() == shape, errors::InvalidArgument("images must be of one size"));
      from.push_back({At(some), some.dim_size(3)});
      in += some.dim_size(3);
    }
    const int64_t out = bias.NumElements();
    OP_REQUIRES(context, out > 0 && out % kBlock == 0, errors::InvalidArgument("a bias of ", out, " channels"));
    OP_REQUIRES_OK(context, CheckKernel(kernel, in, out));
    shape.set_dim(3, out);
    Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &output));
    if (shape.num_elements() == 0) return;
    Convolution convolution(shape.dim_size(0), shape.dim_size(1), shape.dim_size(2), kernel.dim_size(0), from,
                            {{At(*output), out}}, kernel.flat<float>().data(), bias.flat<float>().data(), relu_, false);
    OP_REQUIRES_OK(context, convolution.Compute(context));
  }

 private:
  bool relu_;
};

class ConvolutionBackOp : public OpKernel {
 public:
  explicit ConvolutionBackOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("channels", &channels_));
    OP_REQUIRES(context, Granted(), errors::Unavailable("the system does not grant AMX to this process"));
    OP_REQUIRES(context, static_cast<int>(channels_.size()) == context->num_outputs(),
                errors::InvalidArgument("channels must be given of each part"));
    for (int64_t some : channels_) {
      OP_REQUIRES(context, some > 0 && some % kBlock == 0, errors::InvalidArgument("a part of ", some, " channels"));
    }
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &gradient = context->input(0), &kernel = context->input(1);
    OP_REQUIRES_OK(context, Check(gradient));
    std::vector<Part> to;
    int64_t in = 0;
    TensorShape shape = gradient.shape();
    for (size_t part = 0; part < channels_.size(); ++part) {
      shape.set_dim(3, channels_[part]);
      Tensor* back;
      OP_REQUIRES_OK(context, context->allocate_output(part, shape, &back));
      to.push_back({At(*back), channels_[part]});
      in += channels_[part];
    }
    const int64_t out = gradient.dim_size(3);
    OP_REQUIRES_OK(context, CheckKernel(kernel, in, out));
    if (shape.num_elements() == 0) return;
    Convolution convolution(shape.dim_size(0), shape.dim_size(1), shape.dim_size(2), kernel.dim_size(0),
                            {{At(gradient), out}}, to, kernel.flat<float>().data(), nullptr, false, true);
    OP_REQUIRES_OK(context, convolution.Compute(context));
  }

 private:
  std::vector<int64_t> channels_;
};

REGISTER_OP("R2d2Convolution")
    .Input("images: parts * bfloat16")
    .Input("kernel: float")
    .Input("bias: float")
    .Attr("parts: int >= 1")
    .Attr("relu: bool")
    .Output("output: bfloat16")
    .SetShapeFn([](shape_inference::InferenceContext* c) {
      shape_inference::ShapeHandle images, bias, output;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 4, &images));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(c->num_inputs() - 1), 1, &bias));
      TF_RETURN_IF_ERROR(c->ReplaceDim(images, 3, c->Dim(bias, 0), &output));
      c->set_output(0, output);
      return OkStatus();
    });

REGISTER_OP("R2d2ConvolutionBack")
    .Input("gradient: bfloat16")
    .Input("kernel: float")
    .Attr("parts: int >= 1")
    .Attr("channels: list(int)")
    .Output("back: parts * bfloat16")
    .SetShapeFn([](shape_inference::InferenceContext* c) {
      std::vector<int64_t> channels;
      TF_RETURN_IF_ERROR(c->GetAttr("channels", &channels));
      shape_inference::ShapeHandle gradient, back;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 4, &gradient));
      for (int part = 0; part < std::min<int>(c->num_outputs(), channels.size()); ++part) {
        TF_RETURN_IF_ERROR(c->ReplaceDim(gradient, 3, c->MakeDim(channels[part]), &back));
        c->set_output(part, back);
      }
      return OkStatus();
    });

REGISTER_KERNEL_BUILDER(Name("R2d2Convolution").Device(DEVICE_CPU), ConvolutionOp);
REGISTER_KERNEL_BUILDER(Name("R2d2ConvolutionBack").Device(DEVICE_CPU), ConvolutionBackOp);

}  // namespace
