// Digests of the kernel's outputs on ten bfloat16 batches. As a program of this machine with emulated tile registers, and
// (BARE) as a kernel of an emulated machine that has them: the same lines mean the same bits.
#if defined(BARE)
#define thread_local  // one thread: no thread-local storage to set up
#endif
#include "attention.cpp"

#include <cmath>

#if defined(BARE)
#include "bare.h"
#else
#include <cstdio>
static void put(const char* text) { std::fputs(text, stdout); }
#endif

// Both builds take this one in place of their C libraries' own, so that only what is compared can differ.
extern "C" float exp2f(float x) {
    const float whole = __builtin_floorf(x), f = x - whole;
    if (x < -125) return 0;
    float p = 0.0018f;
    for (float c : {0.009f, 0.0555f, 0.2402f, 0.6931f, 1.0f}) p = p * f + c;
    uint32_t bits;
    std::memcpy(&bits, &p, 4);
    bits += uint32_t(int32_t(whole)) << 23;
    std::memcpy(&p, &bits, 4);
    return p;
}

namespace {

void put_hex(uint64_t x) {
    char digits[17] = {};
    for (int i = 0; i < 16; ++i) digits[i] = "0123456789abcdef"[x >> (60 - 4 * i) & 15];
    put(digits);
}

uint64_t state = 1;
uint32_t random_bits() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return uint32_t(state >> 33);
}
// Uniform in -1.5 .. 1.5; the digests need no normal distribution.
float random_number() { return (float(random_bits() & 0xffff) / 65536.0f - 0.5f) * 3; }

struct Sequence { int queries, length; };

void digest(const char* name, std::vector<Sequence> sequences, int H, int H_kv, int d, int block, int R, int rank) {
    state = 7;
    const int S = int(sequences.size());
    std::vector<int32_t> starts{0}, lengths;
    int most = 1, B = 0;
    for (Sequence s : sequences) {
        starts.push_back(starts.back() + s.queries);
        lengths.push_back(s.length);
        most = std::max(most, (s.length + block - 1) / block);
    }
    B = S * most;
    const int T = starts.back();
    std::vector<int32_t> blocks(B);
    for (int i = 0; i < B; ++i) blocks[i] = (i * 7 + 3) % B;  // B is no multiple of 7 in the cases below
    const auto fill = [&](std::vector<Bfloat16>& x) {
        for (auto& e : x) e = Bfloat16::from(random_number());
    };
    std::vector<Bfloat16> q(T * H * d), kv(size_t(B) * H_kv * block * 2 * d), out(q.size());
    fill(q);
    fill(kv);
    const int depth = wavelet_attention_depth(k_bfloat16), units = (rank / 2 + depth - 1) / depth * depth;
    const int columns = 2 * kTableMargin + R, wide = (units * 2 + 15) / 16 * 16;
    std::vector<Bfloat16> table(size_t(units) * columns * 2);
    std::vector<float> projection(size_t(d) * wide);
    for (int u = 0; u < rank / 2; ++u)
        for (int t = 0; t < R; ++t)
            for (int i = 0; i < 2; ++i)
                table[(size_t(u) * columns + kTableMargin + R - 1 - t) * 2 + i] = Bfloat16::from(random_number() / (1 + t * 0.01f));
    for (int i = 0; i < d; ++i)
        for (int c = 0; c < rank; ++c) projection[i * wide + c] = random_number() / std::sqrt(float(d));
    std::vector<int32_t> ranks((R + kRankSpan - 1) / kRankSpan);
    for (int i = 0; i < int(ranks.size()); ++i) ranks[i] = std::max(1, rank / 2 - i);
    Arguments a{};
    a.q = q.data(); a.k_cache = kv.data(); a.v_cache = kv.data() + d; a.out = out.data();
    a.block_table = blocks.data(); a.query_start_loc = starts.data(); a.seq_lens = lengths.data();
    a.table = table.data(); a.projection = projection.data(); a.ranks = ranks.data();
    const int64_t q_strides[3] = {H * d, d, 1}, kv_strides[4] = {H_kv * block * 2 * d, 2 * d, block * 2 * d, 1};
    for (int i = 0; i < 3; ++i) a.q_strides[i] = a.out_strides[i] = q_strides[i];
    for (int i = 0; i < 4; ++i) a.k_strides[i] = a.v_strides[i] = kv_strides[i];
    a.block_table_strides[0] = most; a.block_table_strides[1] = 1;
    a.T = T; a.S = S; a.H = H; a.H_kv = H_kv; a.d = d; a.num_blocks = B; a.block_size = block; a.max_blocks = most;
    a.R = R; a.table_stride = columns; a.projection_columns = wide; a.element_type = k_bfloat16; a.scale = 1 / std::sqrt(double(d));
    const int refused = wavelet_attention(&a);
    uint64_t hash = 14695981039346656037u;
    for (Bfloat16 x : out) hash = (hash ^ x.bits) * 1099511628211u;
    put(name);
    put(refused ? ": refused " : ": ");
    put_hex(hash);
    put("\n");
}

}  // namespace

static void put_digests() {
    digest("decode", {{1, 300}, {1, 17}, {1, 129}}, 8, 2, 64, 128, 200, 30);
    digest("decode of 6 heads, d 96", {{1, 200}, {1, 75}}, 6, 1, 96, 16, 60, 20);
    digest("one head each", {{1, 140}, {9, 133}}, 2, 2, 32, 16, 33, 8);
    digest("prompt", {{150, 150}}, 8, 2, 64, 128, 60, 30);
    digest("chunk after others", {{40, 290}}, 8, 2, 64, 128, 700, 30);
    digest("sixteen heads of one", {{1, 131}, {3, 64}}, 16, 1, 64, 32, 90, 12);
    digest("three heads, d 80, odd", {{33, 97}, {1, 5}}, 6, 2, 80, 48, 45, 40);
    digest("d 128", {{20, 170}}, 4, 1, 128, 64, 100, 30);
    digest("decode of two parts", {{1, 1100}, {1, 2050}}, 8, 2, 64, 128, 700, 30);
    digest("decode of blocks of 16, five heads", {{1, 333}, {1, 64}}, 5, 1, 64, 16, 90, 30);
    put("end\n");
}
#if defined(BARE)
extern "C" void (*init_begin[])(), (*init_end[])();
extern "C" void bare_main() {
    set_up_serial();
    for (auto constructor = init_begin; constructor != init_end; ++constructor) (*constructor)();
    put_digests();
    shut_down();
}
#else
int main() { put_digests(); }
#endif
