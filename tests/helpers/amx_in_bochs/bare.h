// What C++ needs where there is no system: a serial line to write to, memory that is never given back, and its copying.
#pragma once

#include <cstddef>
#include <cstdint>

static void out_byte(uint16_t port, uint8_t x) { asm volatile("outb %0, %1" : : "a"(x), "Nd"(port)); }

static void set_up_serial() { out_byte(0x3fb, 3); }  // eight bits

extern "C" void put(const char* text) {
    for (; *text; ++text) {
        uint8_t status;
        do asm volatile("inb %1, %0" : "=a"(status) : "Nd"(uint16_t(0x3fd)));
        while (!(status & 0x20));
        out_byte(0x3f8, uint8_t(*text));
    }
}

// Bochs ends where this word is written to this port; what the serial line still holds has to leave first.
static void shut_down() {
    for (int i = 0; i < 1000000; ++i) asm volatile("pause");
    for (const char* c = "Shutdown"; *c; ++c) out_byte(0x8900, uint8_t(*c));
}

extern "C" void* aligned_alloc(size_t alignment, size_t bytes) {
    static char heap[192 << 20];
    static size_t used = 0;
    used = (used + alignment - 1) / alignment * alignment;
    void* at = heap + used;
    used += bytes;
    if (used > sizeof heap) {
        put("no memory\n");
        for (;;) asm volatile("hlt");
    }
    return at;
}
extern "C" void* malloc(size_t bytes) { return aligned_alloc(64, bytes); }
extern "C" void free(void*) {}
void* operator new(size_t bytes) { return malloc(bytes); }
void operator delete(void*) noexcept {}
void operator delete(void*, size_t) noexcept {}

extern "C" void* memcpy(void* to, const void* from, size_t n) {
    void* start = to;
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    return start;
}
extern "C" void* memmove(void* to, const void* from, size_t n) {
    if (to <= from) return memcpy(to, from, n);
    while (n--) ((volatile char*)to)[n] = ((const volatile char*)from)[n];
    return to;
}
extern "C" void* memset(void* to, int x, size_t n) {
    void* start = to;
    asm volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(x) : "memory");
    return start;
}
extern "C" float fmaxf(float a, float b) { return a > b ? a : b; }
extern "C" double exp2(double) {
    put("exp2 of doubles\n");  // no batch here is of doubles
    for (;;) asm volatile("hlt");
}
extern "C" int __cxa_atexit(void (*)(void*), void*, void*) { return 0; }
extern "C" int atexit(void (*)()) { return 0; }
