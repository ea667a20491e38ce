// Paged causal attention with a relative position table. Plain C interface: no PyTorch headers, so it builds anywhere.
//
// A task is one KV head, a tile of queries and a part of the context. Each tile of keys is packed once for all heads
// and queries of the task. Parts depend on the sequence alone, so a result does not depend on threads or the batch.

#include <cstdlib>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#if !defined(WAVE_RANK_SPAN)
#error "compile with the options of ../library.py: ../constants.py defines what Python and this file share"
#endif

#include "cache_write.h"
#include "tiled_rows.h"
#include "tiled_single.h"
#include "tiled_rows.h"

namespace {

constexpr int64_t kTileRows = 128;   // query rows, that is queries x heads of a group, in a task
constexpr int64_t kPartKeys = 1024;  // keys in a part, for a sequence of one query tile
constexpr double kLog2E = 1.4426950408889634074;  // scores are powers of two: e^x = 2^(x log2 e)

enum ElementType : int64_t { WAVE_ELEMENT_TYPES };  // k_float32, ...: see ../constants.py

}  // namespace

// ../kernel_arguments.py has the same fields in the same order.
extern "C" struct Arguments {
    const void *q, *k_cache, *v_cache;
    void* out;
    const int32_t *block_table, *query_start_loc, *seq_lens;
    const void *table, *projection;
    const int32_t* ranks;
    int64_t q_strides[3], k_strides[4], v_strides[4], out_strides[3], block_table_strides[2];
    int64_t T, S, H, H_kv, d, num_blocks, block_size, max_blocks, R, table_stride, projection_columns, element_type,
        bias_length;
    double scale, bias_slope;
};

namespace {

struct Task {
    int64_t s, head, query, queries, position, first_key, last_key, part, parts, partial;
};

class Buffer {
public:
    ~Buffer() { std::free(data_); }
    void* at_least(std::size_t bytes) {
        if (bytes > size_) {
            std::free(data_);
            size_ = (bytes + 63) / 64 * 64;
            data_ = std::aligned_alloc(64, size_);
            if (!data_) {
                size_ = 0;
                throw std::bad_alloc();
            }
        }
        return data_;
    }

private:
    void* data_ = nullptr;
    std::size_t size_ = 0;
};

// Lays arrays one after the other into `memory`. Without memory it only counts the bytes that they need.
struct Arena {
    char* memory = nullptr;
    std::size_t bytes = 0;

    template <class T>
    T* take(int64_t count) {
        T* array = memory ? (T*)(memory + bytes) : nullptr;
        bytes += (count * sizeof(T) + 63) / 64 * 64;
        return array;
    }
};

int64_t up_to_multiple(int64_t n, int64_t of) { return (n + of - 1) / of * of; }

// Query tiles of the last sequences first: they see the most keys, and a long task should not start last.
std::vector<Task> plan(const Arguments& a, int64_t& partials) {
    const int64_t G = a.H / a.H_kv, tile = kTileRows / G ? kTileRows / G : 1;
    std::vector<Task> tasks;
    partials = 0;
    for (int64_t s = a.S - 1; s >= 0; --s) {
        const int64_t start = a.query_start_loc[s], queries = a.query_start_loc[s + 1] - start, length = a.seq_lens[s];
        const int64_t tiles = (queries + tile - 1) / tile;
        if (!length) continue;
        for (int64_t i = tiles - 1; i >= 0; --i) {
            const int64_t first = queries * i / tiles, last = queries * (i + 1) / tiles;
            const int64_t position = length - queries + first, keys = length - queries + last;
            const int64_t key_tiles = (keys + kTileKeys - 1) / kTileKeys;
            const int64_t parts = (keys + kPartKeys * tiles - 1) / (kPartKeys * tiles);
            for (int64_t head = 0; head < a.H_kv; ++head)
                for (int64_t p = 0; p < parts; ++p) {
                    const int64_t from = key_tiles * p / parts * kTileKeys;
                    const int64_t to = key_tiles * (p + 1) / parts * kTileKeys;
                    tasks.push_back({s, head, start + first, last - first, position, from, to < keys ? to : keys, p,
                                     parts, parts > 1 ? partials++ : -1});
                }
        }
    }
    return tasks;
}

template <class Stored, class Products>
class Kernel {
    using Real = typename Products::Real;
    using Unit = typename Products::Unit;
    static constexpr int kElements = RowReader<Stored, Products>::kElements, lanes = kLanes<Products>, kProjected = 4;

public:
    explicit Kernel(const Arguments& arguments) : a(arguments) {}

    std::size_t partial_bytes() const { return partial_size * sizeof(Real); }

    void run(const Task& task, char* partials) const {
        static thread_local Buffer buffer;
        Arena counted, arena;
        workspace(counted);
        arena.memory = (char*)buffer.at_least(counted.bytes);
        Workspace w = workspace(arena);
        const QueryRows<Products>& rows = w.rows;
        std::memset(w.reals, 0, kProjected * padded_d * sizeof(Real));

        read_queries(task, rows, w.padded, w.reals);
        const int64_t count = task.queries * G;
        std::memset(rows.output, 0, count * padded_d * sizeof(Real));
        std::memset(rows.sum, 0, count * lanes * sizeof(Real));
        for (int64_t r = 0; r < count; ++r) rows.peak[r] = Real(kMasked);

        const Table<Products> table{(const Unit*)a.table, a.ranks, a.R, a.table_stride};
        const RowReader<Stored, Products> k_reader{a.d, a.k_strides[3], w.padded},
            v_reader{a.d, a.v_strides[3], w.padded};
        const bool single = task.queries == 1 && G <= kSingleHeads && k_reader.direct() && v_reader.direct();
        [[maybe_unused]] const typename Products::Registers registers(single, count);
        if (single && Products::kDepth > 1) turn_query(rows);
        const auto keys_from = [&](int64_t n) {
            return int(task.last_key - n < kTileKeys ? task.last_key - n : kTileKeys);
        };
        find_rows(a.k_cache, a.k_strides, task, task.first_key, keys_from(task.first_key), w.k_rows);
        for (int64_t n = task.first_key; n < task.last_key; n += kTileKeys) {
            const int here = keys_from(n), next = n + kTileKeys < task.last_key ? keys_from(n + kTileKeys) : 0;
            find_rows(a.v_cache, a.v_strides, task, n, here, w.v_rows);
            if (next) find_rows(a.k_cache, a.k_strides, task, n + kTileKeys, next, w.next_k_rows);
            const Prefetch<Stored> with_keys{w.v_rows, here, a.d}, with_values{w.next_k_rows, next, a.d};
            const Tile<Products> tile{w.keys, w.values, n, here, units, padded_d, Real(a.scale * kLog2E), key_stride};
            const RowSource<Stored, Products> keys{w.k_rows, with_keys}, values{w.v_rows, with_values};
            const auto pack = [&] { pack_values(v_reader, w.v_rows, here, with_values, padded_d, w.values); };
            if (single) {
                attend_one(rows, task.position, tile, table, keys, values, pack);
            } else {
                pack_keys(k_reader, w.k_rows, here, with_keys, w.keys);
                pack();
                attend_packed(rows, task.queries, task.position, tile, table);
            }
            std::swap(w.k_rows, w.next_k_rows);
        }

        for (int64_t r = 0; r < count; ++r) {
            const Real sum =
                across<Real>(load(rows.sum + r * lanes), [](Vector<Real> x, Vector<Real> y) { return x + y; });
            const Real* output = rows.output + r * padded_d;
            if (task.parts == 1) {
                write(output, 1 / sum, task.query + r / G, task.head * G + r % G);
            } else {
                Real* partial = (Real*)partials + task.partial * partial_size + r * partial_row;
                std::memcpy(partial, output, padded_d * sizeof(Real));
                partial[padded_d] = sum;
                partial[padded_d + 1] = rows.peak[r];
            }
        }
    }

    // Joins the parts of a task's rows; called for its first part.
    void merge(const Task& task, char* partials) const {
        std::vector<Real> joined(padded_d);
        for (int64_t r = 0; r < task.queries * G; ++r) {
            const Real* rows = (const Real*)partials + task.partial * partial_size + r * partial_row;
            Real peak = Real(kMasked), sum = 0;
            for (int64_t p = 0; p < task.parts; ++p) peak = std::fmax(peak, rows[p * partial_size + padded_d + 1]);
            joined.assign(padded_d, 0);
            for (int64_t p = 0; p < task.parts; ++p) {
                const Real* part = rows + p * partial_size;
                const Real factor = std::exp2(part[padded_d + 1] - peak);
                sum += part[padded_d] * factor;
                for (int64_t i = 0; i < padded_d; ++i) joined[i] += part[i] * factor;
            }
            write(joined.data(), 1 / sum, task.query + r / G, task.head * G + r % G);
        }
    }

    void write_zeros() const {
        const std::vector<Real> zeros(padded_d, 0);
        for (int64_t s = 0; s < a.S; ++s)
            if (!a.seq_lens[s])
                for (int64_t i = a.query_start_loc[s]; i < a.query_start_loc[s + 1]; ++i)
                    for (int64_t h = 0; h < a.H; ++h) write(zeros.data(), 0, i, h);
    }

private:
    const Arguments& a;
    const int64_t G = a.H / a.H_kv, padded_d = up_to_multiple(a.d, kElements), units = padded_d / Products::kPack;
    // Registers of rows reach past a task's last row; nobody reads what they hold there.
    const int64_t max_rows = (G > kTileRows ? G : kTileRows) + (Products::kDepth > 1 ? kTileSide - 1 : 0);
    const int64_t projected_units = a.projection ? a.projection_columns / Products::kPack : units;
    // Blocks that hold whole sixteens of keys: a tile of keys begins at a multiple of its size.
    const int64_t key_stride = a.block_size % kTileSide ? 0 : a.k_strides[1] * int64_t(sizeof(Stored));
    // A part's rows, each [padded_d] of output, its sum and its peak.
    const int64_t partial_row = padded_d + 2, partial_size = max_rows * partial_row;

    // The memory in which a thread works on one task.
    struct Workspace {
        Unit *keys, *values;  // a packed tile: [units][kTileKeys], [kTileKeys / kPack][padded_d]
        QueryRows<Products> rows;
        const Stored **k_rows, **next_k_rows, **v_rows;  // [kTileKeys] each: keys of this tile and of the next, values
        Real* reals;                                     // [kProjected][padded_d]: query rows on their way to a product
        Stored* padded;                                  // [2][padded_d]: rows that do not end with a whole vector
    };

    Workspace workspace(Arena& arena) const {
        Workspace w;
        w.keys = arena.take<Unit>(kTileKeys * units);
        w.values = arena.take<Unit>(kTileKeys * padded_d);
        w.rows.q = arena.take<Unit>(max_rows * units);
        w.rows.projected = a.projection ? arena.take<Unit>(max_rows * projected_units) : w.rows.q;
        w.rows.q_columns = Products::kDepth > 1 ? arena.take<Unit>(units * single_columns(kSingleHeads)) : nullptr;
        w.rows.projected_units = projected_units;
        w.rows.output = arena.take<Real>(max_rows * padded_d);
        w.rows.sum = arena.take<Real>(max_rows * lanes);
        w.rows.peak = arena.take<Real>(max_rows);
        w.k_rows = arena.take<const Stored*>(kTileKeys);
        w.next_k_rows = arena.take<const Stored*>(kTileKeys);
        w.v_rows = arena.take<const Stored*>(kTileKeys);
        w.reals = arena.take<Real>(kProjected * padded_d);
        w.padded = arena.take<Stored>(2 * padded_d);
        return w;
    }

    // The heads of a single query as columns, with zeros for heads that there are not.
    void turn_query(const QueryRows<Products>& rows) const {
        const int columns = single_columns(G);
        for (int64_t u = 0; u < units; ++u)
            for (int h = 0; h < columns; ++h) rows.q_columns[u * columns + h] = h < G ? rows.q[h * units + u] : 0;
    }

    template <class Pack>
    void attend_one(const QueryRows<Products>& rows, int64_t position, const Tile<Products>& tile,
                    const Table<Products>& table, const RowSource<Stored, Products>& keys,
                    const RowSource<Stored, Products>& values, [[maybe_unused]] const Pack& pack) const {
#if defined(WAVE_TILES)
        if constexpr (Products::kDepth > 1)
            return attend_single_tiled<Products>(rows, G, position, tile, table, keys, pack);
        else
#endif
            attend_single<Stored, Products>(rows, G, position, tile, table, keys, values);
    }

    void attend_packed(const QueryRows<Products>& rows, int64_t queries, int64_t position, const Tile<Products>& tile,
                       const Table<Products>& table) const {
#if defined(WAVE_TILES)
        if constexpr (Products::kDepth > 1)
            return attend_by_sixteen<Products>(rows, queries, G, position, tile, table);
        else
#endif
            attend_tile<Products>(rows, queries, G, position, tile, table);
    }

    void write(const Real* row, Real factor, int64_t query, int64_t h) const {
        Stored* to = (Stored*)a.out + query * a.out_strides[0] + h * a.out_strides[1];
        for (int64_t i = 0; i < a.d; ++i) to[i * a.out_strides[2]] = stored_from<Stored, Real>(row[i] * factor);
    }

    // Addresses of the task's head in `count` keys from key `first` on, found in the block table; the last address is
    // repeated up to a whole vector.
    void find_rows(const void* cache, const int64_t* strides, const Task& task, int64_t first, int count,
                   const Stored** rows) const {
        const int32_t* blocks = a.block_table + task.s * a.block_table_strides[0];
        const char* data = (const char*)((const Stored*)cache + task.head * strides[2]);
        const int64_t block_bytes = strides[0] * int64_t(sizeof(Stored)),
                      slot_bytes = strides[1] * int64_t(sizeof(Stored));
        int64_t block = first / a.block_size, slot = first % a.block_size;
        for (int i = 0; i < count; ++block, slot = 0) {
            const char* from = data + blocks[block * a.block_table_strides[1]] * block_bytes + slot * slot_bytes;
            const int run = int(a.block_size - slot < count - i ? a.block_size - slot : count - i);
            for (int j = 0; j < run; ++j) rows[i + j] = (const Stored*)(from + j * slot_bytes);
            i += run;
        }
        for (int i = count; i % kElements; ++i) rows[i] = rows[count - 1];
    }

    // Query rows in units, and their coordinates in the table's basis if the task has keys closer than R; with a bonus
    // for near keys that is unit 0.
    void read_queries(const Task& task, const QueryRows<Products>& rows, Stored* padded, Real* reals) const {
        const RowReader<Stored, Products> reader{a.d, a.q_strides[2], padded};
        const bool near = task.position - task.last_key < a.R + kTileKeys;  // a vector may reach past the last key
        for (int64_t r = 0; r < task.queries * G; ++r) {
            const Stored* q =
                (const Stored*)a.q + (task.query + r / G) * a.q_strides[0] + (task.head * G + r % G) * a.q_strides[1];
            const Stored* row = reader.row(q);
            for (int64_t u = 0; u < units; u += lanes)
                store(rows.q + r * units + u, reader.units(row + u * Products::kPack));
            if (a.projection && near) {
                for (int64_t i = 0; i < a.d; ++i) reals[r % kProjected * a.d + i] = Real(row[i]);
                const int64_t ready = r % kProjected + 1;
                if (ready == kProjected || r + 1 == task.queries * G)
                    project(reals, rows.projected + (r + 1 - ready) * projected_units, ready);
            }
        }
        if (a.bias_length && near)
            for (int64_t r = 0; r < task.queries * G; ++r)
                rows.projected[r * projected_units] = bias_unit(task.position + r / G + 1);
    }

    // What unit 0, ones for near keys, is multiplied with in the row of a query that sees so many keys. The sum is
    // multiplied with the scale. A pair of bfloat16 holds a number and what its rounding lost.
    Unit bias_unit(int64_t visible) const {
        const double nats = visible > a.bias_length ? a.bias_slope * std::log(double(visible) / a.bias_length) : 0;
        const Real bias = Real(nats / a.scale);
        if constexpr (Products::kPack == 1) {
            return bias;
        } else {
            const Bfloat16 high = Bfloat16::from(bias), low = Bfloat16::from(bias - float(high));
            return Unit(high.bits) | Unit(low.bits) << 16;
        }
    }

    // Coordinates of `count` rows [kProjected][d] in the table's basis; several, to hide the products' latency.
    void project(const Real* reals, Unit* projected, int64_t count) const {
        using RealProducts = std::conditional_t<sizeof(Real) == 4, FloatProducts, DoubleProducts>;
        for (int64_t c = 0; c < a.projection_columns; c += lanes) {
            Vector<Real> sum[kProjected][1] = {};
            multiply<RealProducts, kProjected, 1>(sum, reals, a.d, (const Real*)a.projection + c, a.projection_columns,
                                                  a.d);
            for (int64_t r = 0; r < count; ++r)
                Products::store_units(projected + r * projected_units + c / Products::kPack, sum[r][0]);
        }
    }
};

template <class Stored, class Products>
void attend(const Arguments& a) {
    const Kernel<Stored, Products> kernel(a);
    int64_t partials = 0;
    const std::vector<Task> tasks = plan(a, partials);
    static thread_local Buffer buffer;
    char* partial_results = (char*)buffer.at_least(partials * kernel.partial_bytes() + 1);
    const int64_t count = int64_t(tasks.size());
#pragma omp parallel if (count > 1)
    {
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < count; ++i) kernel.run(tasks[i], partial_results);
        if (partials) {
#pragma omp for schedule(dynamic, 1)
            for (int64_t i = 0; i < count; ++i)
                if (tasks[i].parts > 1 && tasks[i].part == 0) kernel.merge(tasks[i], partial_results);
        }
    }
    kernel.write_zeros();
}

#if defined(WAVE_TILES)
using Bfloat16Products = Bfloat16TileProducts;
#elif defined(__AVX512BF16__)
using Bfloat16Products = Bfloat16PairProducts;
#else
using Bfloat16Products = FloatProducts;
#endif

}  // namespace

// Whether the values of the index tensors are such that everything that is read and written lies in the tensors.
static bool in_bounds(const Arguments& a) {
    if (a.query_start_loc[0] != 0 || a.query_start_loc[a.S] > a.T) return false;
    for (int64_t s = 0; s < a.S; ++s) {
        const int64_t queries = int64_t(a.query_start_loc[s + 1]) - a.query_start_loc[s], length = a.seq_lens[s];
        const int64_t blocks = (length + a.block_size - 1) / a.block_size;
        if (queries < 0 || length < 0 || (length && length < queries) || blocks > a.max_blocks) return false;
        const int32_t* ids = a.block_table + s * a.block_table_strides[0];
        for (int64_t i = 0; i < blocks; ++i) {
            const int64_t id = ids[i * a.block_table_strides[1]];
            if (id < 0 || id >= a.num_blocks) return false;
        }
    }
    return true;
}

// Units that an element type is multiplied in: 2 for pairs of bfloat16, else 1.
extern "C" __attribute__((visibility("default"))) int wavelet_attention_pack(int32_t element_type) {
    return element_type == k_bfloat16 ? Bfloat16Products::kPack : 1;
}

// Units of the table and of its projection are padded to a multiple of this.
extern "C" __attribute__((visibility("default"))) int wavelet_attention_depth(int32_t element_type) {
    return element_type == k_bfloat16 ? Bfloat16Products::kDepth : 1;
}

// Compared with the size of the caller's idea of `Arguments`.
extern "C" __attribute__((visibility("default"))) int wavelet_attention_arguments_size() {
    return int(sizeof(Arguments));
}

// Returns 0, or 1 where a value of an index tensor is out of bounds; then nothing is written.
extern "C" __attribute__((visibility("default"))) int wavelet_attention(const Arguments* a) {
    if (!in_bounds(*a)) return 1;
    switch (a->element_type) {
        case k_float32: attend<float, FloatProducts>(*a); break;
        case k_bfloat16: attend<Bfloat16, Bfloat16Products>(*a); break;
        case k_float16: attend<Float16, FloatProducts>(*a); break;
        case k_float64: attend<double, DoubleProducts>(*a); break;
    }
    return 0;
}

// Compared with the size of the caller's idea of `CacheWrite`.
extern "C" __attribute__((visibility("default"))) int wavelet_write_cache_size() { return int(sizeof(CacheWrite)); }

// Returns -1, or the first token whose slot the cache has not; then nothing is written.
extern "C" __attribute__((visibility("default"))) int64_t wavelet_write_cache(const CacheWrite* w) {
    for (int64_t t = 0; t < w->T; ++t)
        if (w->slots[t] >= w->num_blocks * w->block_size) return t;
    switch (w->element_bytes) {
        case 2: write_tokens<uint16_t>(*w); break;
        case 4: write_tokens<uint32_t>(*w); break;
        case 8: write_tokens<uint64_t>(*w); break;
    }
    return -1;
}
