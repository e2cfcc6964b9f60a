// Plain loads and stores by PTX, and shared addresses as PTX takes them: 32 bits, an offset in the shared window.
#pragma once

#include <cstdint>

#include "device/target.cuh"

namespace lrk {
inline namespace LRK_TARGET {
namespace ptx {

/// PTX ISA, "State Spaces: Shared": the 32-bit address of a pointer into shared memory.
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
#if defined(LRK_EMULATE)
  return uint32_t(static_cast<const char*>(pointer) - emulator::shared_base());
#else
  return uint32_t(__cvta_generic_to_shared(pointer));
#endif
}

/// PTX ISA, "ld.shared" / "st.shared", 16 bytes and 2 bytes.
__device__ __forceinline__ uint4 load_shared_16(uint32_t address) {
  uint4 value;
#if defined(LRK_EMULATE)
  memcpy(&value, emulator::shared_for_read(address, 16, 16, "ld.shared.v4"), 16);
#else
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w) : "r"(address) : "memory");
#endif
  return value;
}

__device__ __forceinline__ void store_shared_16(uint32_t address, const uint4& value) {
#if defined(LRK_EMULATE)
  memcpy(emulator::shared_for_write(address, 16, 16, "st.shared.v4"), &value, 16);
#else
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};"
               ::"r"(address), "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w) : "memory");
#endif
}

__device__ __forceinline__ void store_shared_2(uint32_t address, uint16_t value) {
#if defined(LRK_EMULATE)
  memcpy(emulator::shared_for_write(address, 2, 2, "st.shared.u16"), &value, 2);
#else
  asm volatile("st.shared.u16 [%0], %1;" ::"r"(address), "h"(value) : "memory");
#endif
}

/// PTX ISA, "ld.global.nc": two bytes of memory that nobody writes during the kernel; zero, and no access, unless
/// `exists`.
__device__ __forceinline__ uint16_t load_global_2(const void* address, bool exists) {
  uint16_t value = 0;
#if defined(LRK_EMULATE)
  if (exists) memcpy(&value, emulator::global_for_constant_read(address, 2, 2, "ld.global.nc"), 2);
#else
  asm volatile(
      "{\n .reg .pred exists;\n setp.ne.b32 exists, %2, 0;\n mov.u16 %0, 0;\n"
      " @exists ld.global.nc.u16 %0, [%1];\n}"
      : "=h"(value) : "l"(address), "r"(int(exists)));
#endif
  return value;
}

}  // namespace ptx
}  // namespace LRK_TARGET
}  // namespace lrk
