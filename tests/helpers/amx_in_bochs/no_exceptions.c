// What the kernel's exceptions need to link where there is no C++ runtime: each says its name and stops the machine.
void put(const char*);
#define STOP(name)                                       \
    void name() {                                        \
        put(#name "\n");                                 \
        for (;;) __asm__ volatile("hlt");                \
    }
STOP(_ZSt20__throw_length_errorPKc)
STOP(_ZSt17__throw_bad_allocv)
STOP(_ZSt28__throw_bad_array_new_lengthv)
STOP(__cxa_throw)
STOP(__cxa_allocate_exception)
STOP(_Unwind_Resume)
STOP(__gxx_personality_v0)
STOP(_ZNSt9bad_allocD1Ev)
STOP(_ZNSt9bad_allocD2Ev)
STOP(__cxa_begin_catch)
STOP(__cxa_end_catch)
STOP(__cxa_rethrow)
STOP(_ZSt9terminatev)
STOP(abort)

void* __dso_handle;
void* _ZTVSt9bad_alloc[8];
void* _ZTISt9bad_alloc[4];
int __cxa_guard_acquire(char* guard) { return !*guard; }
void __cxa_guard_release(char* guard) { *guard = 1; }
