// Stands in for FarmHash, which XLA's headers include and TensorFlow's wheel does not ship. The
// compiler in the wheel has its own; nothing that this program calls hashes by these.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace util {

using uint128_t = std::pair<uint64_t, uint64_t>;

inline uint32_t Fingerprint32(const char*, size_t) { return 0; }
inline uint64_t Fingerprint64(const char*, size_t) { return 0; }
inline uint128_t Fingerprint128(const char*, size_t) { return {0, 0}; }
inline uint64_t Uint128Low64(const uint128_t value) { return value.first; }
inline uint64_t Uint128High64(const uint128_t value) { return value.second; }

}  // namespace util

namespace farmhash = util;
