// Products with sparse weights over tensors whose batch is innermost: [channel][pixel][image].
//
// One description serves convolutions of any stride, padding and kernel size, their input gradients, and linear layers
// (one pixel, one tap). Weights are sorted by row, block of channels, tap and channel; a block is as many channels as
// the second-level cache holds windows of. `starts[(row * blocks + block) * taps + tap]` is the first weight of a tap.
// `offsets[k]` is the distance, in pixels, from the corner of a window to the pixel
// that weight k multiplies. A tile is a run of output pixels that see the same taps; its segments say which: taps
// outside of the image are left out, so that no tensor needs a frame of zeros and no zero is multiplied.
//
// Plain C interface: no header of torch or Python, compiled in seconds, loaded with ctypes, which releases the GIL.

#include <cstdint>
#include <cstring>

#ifdef __linux__
#include <sys/mman.h>
#endif

#ifndef VECTOR_BYTES
#define VECTOR_BYTES 16
#endif
#ifndef MAX_VECTORS
#define MAX_VECTORS 8  // of accumulators; half of the registers, or less
#endif

struct Tile {
    int32_t out, count, out_step, in_step, first, last;  // output pixel, pixels, steps, segments [first, last)
};
struct Segment {
    int32_t first_tap, last_tap, base;  // taps [first_tap, last_tap), the window's corner in input pixels
};
struct Walk {
    const int64_t* starts;
    const int32_t* offsets;
    const Tile* tiles;
    const Segment* segments;
    int64_t length;  // numbers that lie side by side at each tile: the images, or whole rows of pixels of few images
    int64_t taps, blocks, images, pixels, row_begin, row_end, tile_begin, tile_end;
    int64_t backward;  // 0: a product; 1: the weights' gradient
};

template <class T>
struct Lanes {
    static constexpr int count = VECTOR_BYTES / sizeof(T);
    typedef T vector __attribute__((vector_size(VECTOR_BYTES)));
};

template <class T>
static inline typename Lanes<T>::vector load(const T* from) {
    typename Lanes<T>::vector value;
    std::memcpy(&value, from, VECTOR_BYTES);
    return value;
}

// The sum of a vector's lanes: halves are added until numbers are left, which compilers keep in registers.
template <class T, int Bytes>
static inline T total(const void* lanes) {
    if constexpr (Bytes == sizeof(T)) {
        T value;
        std::memcpy(&value, lanes, Bytes);
        return value;
    } else {
        typedef T half __attribute__((vector_size(Bytes / 2)));
        half low, high;
        std::memcpy(&low, lanes, Bytes / 2);
        std::memcpy(&high, static_cast<const char*>(lanes) + Bytes / 2, Bytes / 2);
        low += high;
        return total<T, Bytes / 2>(&low);
    }
}

// A chunk of images is V vectors. The last one ends where the images end and may overlap the one before it: no masks.
template <class T, int V>
static inline int64_t at(int j, int64_t images) {
    return j == V - 1 ? images - Lanes<T>::count : j * Lanes<T>::count;
}

template <class T, int V, int P>
static void product(const Walk& w, const Tile& tile, int64_t block, const T* in, const T* values, const T* bias, T* out,
                    int64_t images) {
    using vector = typename Lanes<T>::vector;
    const int64_t step = tile.in_step * w.images;
    for (int64_t row = w.row_begin; row < w.row_end; ++row) {
        vector sum[P][V];
        T* to = out + (row * w.pixels + tile.out) * w.images;
        const vector begin = (bias ? bias[row] : T(0)) - vector{};
        for (int p = 0; p < P; ++p)
            for (int j = 0; j < V; ++j)
                sum[p][j] = block ? load(to + p * tile.out_step * w.images + at<T, V>(j, images)) : begin;
        const int64_t* starts = w.starts + (row * w.blocks + block) * w.taps;
        for (int32_t s = tile.first; s < tile.last; ++s) {
            const Segment& segment = w.segments[s];
            const T* corner = in + segment.base * w.images;
            const int64_t last = starts[segment.last_tap];
            for (int64_t k = starts[segment.first_tap]; k < last; ++k) {
                const T value = values[k];
                const T* from = corner + w.offsets[k] * w.images;
#pragma GCC unroll 16
                for (int p = 0; p < P; ++p)
#pragma GCC unroll 16
                    for (int j = 0; j < V; ++j) sum[p][j] += value * load(from + p * step + at<T, V>(j, images));
            }
        }
        for (int p = 0; p < P; ++p)
            for (int j = 0; j < V; ++j)
                std::memcpy(to + p * tile.out_step * w.images + at<T, V>(j, images), &sum[p][j], VECTOR_BYTES);
    }
}

template <class T, int V, int P, int K>
static inline void dots(const Walk& w, const T* corner, int64_t k, int64_t step, int64_t images,
                        const typename Lanes<T>::vector (&grad)[P][V], T* sums) {
    typename Lanes<T>::vector sum[K] = {};
    const T* from[K];
    for (int i = 0; i < K; ++i) from[i] = corner + w.offsets[k + i] * w.images;
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 16
        for (int j = 0; j < V; ++j)
#pragma GCC unroll 16
            for (int i = 0; i < K; ++i) sum[i] += grad[p][j] * load(from[i] + p * step + at<T, V>(j, images));
    for (int i = 0; i < K; ++i) sums[k + i] += total<T, VECTOR_BYTES>(&sum[i]);
}

template <class T, int V, int P>
static void weight_gradient(const Walk& w, const Tile& tile, int64_t block, const T* in, const T* grad_out, T* sums,
                            int64_t images) {
    constexpr int lanes = Lanes<T>::count;
    using vector = typename Lanes<T>::vector;
    const int64_t step = tile.in_step * w.images;
    vector counted;  // lanes of the last vector that the one before it has not counted already
    for (int i = 0; i < lanes; ++i) counted[i] = i >= V * lanes - images ? T(1) : T(0);
    for (int64_t row = w.row_begin; row < w.row_end; ++row) {
        vector grad[P][V];
        const T* from = grad_out + (row * w.pixels + tile.out) * w.images;
        for (int p = 0; p < P; ++p) {
            for (int j = 0; j < V; ++j) grad[p][j] = load(from + p * tile.out_step * w.images + at<T, V>(j, images));
            grad[p][V - 1] *= counted;
        }
        const int64_t* starts = w.starts + (row * w.blocks + block) * w.taps;
        for (int32_t s = tile.first; s < tile.last; ++s) {
            const Segment& segment = w.segments[s];
            const T* corner = in + segment.base * w.images;
            const int64_t last = starts[segment.last_tap];
            int64_t k = starts[segment.first_tap];
            for (; k + 4 <= last; k += 4) dots<T, V, P, 4>(w, corner, k, step, images, grad, sums);
            if (k + 2 <= last) dots<T, V, P, 2>(w, corner, k, step, images, grad, sums), k += 2;
            if (k < last) dots<T, V, P, 1>(w, corner, k, step, images, grad, sums);
        }
    }
}

template <class T, int V, int P>
static void one(const Walk& w, const Tile& tile, const T* in, const T* values, const T* bias, T* out, int64_t images) {
    for (int64_t block = 0; block < w.blocks; ++block) {
        if (!w.backward)
            product<T, V, P>(w, tile, block, in, values, bias, out, images);
        else
            weight_gradient<T, V, P>(w, tile, block, in, bias, out, images);
    }
}

template <class T, int V>
static void chunk(const Walk& w, const T* in, const T* values, const T* bias, T* out, int64_t images) {
    for (int64_t t = w.tile_begin; t < w.tile_end; ++t) {
        Tile tile = w.tiles[t];
        while (tile.count > 0) {
            int taken = 1;
            if constexpr (V * 4 <= MAX_VECTORS) {
                if (tile.count >= 4) one<T, V, 4>(w, tile, in, values, bias, out, images), taken = 4;
            }
            if constexpr (V * 2 <= MAX_VECTORS) {
                if (taken == 1 && tile.count >= 2) one<T, V, 2>(w, tile, in, values, bias, out, images), taken = 2;
            }
            if (taken == 1) one<T, V, 1>(w, tile, in, values, bias, out, images);
            tile.count -= taken;
            tile.out += taken * tile.out_step;
            in += taken * tile.in_step * w.images;
        }
        in -= w.tiles[t].count * w.tiles[t].in_step * w.images;
    }
}

// A product: out = product + bias (or null). The weights' gradient: out[k] += sum, `bias` is the output's gradient.
template <class T>
static void run(const Walk& w, const T* in, const T* values, const T* bias, T* out) {
    constexpr int lanes = Lanes<T>::count;
    for (int64_t begin = 0; begin < w.length;) {
        int64_t images = w.length - begin;
        if (images > 8 * lanes) images = images < 9 * lanes ? 4 * lanes : 8 * lanes;  // no rest shorter than a vector
        const T* from = in + begin;
        const T* grad = w.backward ? bias + begin : bias;
        T* to = w.backward ? out : out + begin;
        switch ((images + lanes - 1) / lanes) {
            case 1: chunk<T, 1>(w, from, values, grad, to, images); break;
            case 2: chunk<T, 2>(w, from, values, grad, to, images); break;
            case 3: chunk<T, 3>(w, from, values, grad, to, images); break;
            case 4: chunk<T, 4>(w, from, values, grad, to, images); break;
            case 5: chunk<T, 5>(w, from, values, grad, to, images); break;
            case 6: chunk<T, 6>(w, from, values, grad, to, images); break;
            case 7: chunk<T, 7>(w, from, values, grad, to, images); break;
            default: chunk<T, 8>(w, from, values, grad, to, images); break;
        }
        begin += images;
    }
}

extern "C" {
// Ask for large pages before memory is touched for the first time: a fresh output costs more page faults than arithmetic.
void sparsebench_large_pages(void* begin, int64_t bytes) {
#ifdef MADV_HUGEPAGE
    const uintptr_t page = uintptr_t(1) << 21, address = reinterpret_cast<uintptr_t>(begin);
    const uintptr_t first = (address + page - 1) / page * page, last = (address + bytes) / page * page;
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
    (void)begin, (void)bytes;
#endif
}
int sparsebench_lanes_f32() { return Lanes<float>::count; }
void sparsebench_f32(const Walk* w, const float* in, const float* values, const float* bias, float* out) {
    run<float>(*w, in, values, bias, out);
}
void sparsebench_f64(const Walk* w, const double* in, const double* values, const double* bias, double* out) {
    run<double>(*w, in, values, bias, out);
}
}
