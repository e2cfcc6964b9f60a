// Included before everything else in instrumented sources (-include). g++ leaves calls of memcpy, memmove and memset
// uninstrumented, because libtsan intercepts the C library's; a large struct copy is such a call, too. Here those that
// remain calls take the names under which clang 15 makes them. (clang 14 leaves them as they are: unseen.)
#pragma once

#include <cstring>

#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
extern "C" {
void* memcpy(void* __restrict, const void* __restrict, size_t) noexcept __asm__("__tsan_memcpy");
void* memmove(void*, const void*, size_t) noexcept __asm__("__tsan_memmove");
void* memset(void*, int, size_t) noexcept __asm__("__tsan_memset");
}
#endif
