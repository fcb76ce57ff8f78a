"""The GPUs that are compiled for, as XLA's GpuTargetConfigProto describes them."""

# Name, compute capability, cores, units for float32 a core, clock in GHz, bytes of memory and a
# second from it, MiB of L2 cache, KiB of shared memory a core and at most a block, threads a core.
_GPUS = {
    "a100": ("A100-SXM4-80GB", 8, 0, 108, 64, 1.41, 84987740160, 2039e9, 40, 164, 163, 2048),
    "h100": ("H100-SXM5-80GB", 9, 0, 132, 128, 1.98, 84942979072, 3352.32e9, 50, 228, 227, 2048),
    "rtx30": ("GeForce RTX 3090", 8, 6, 82, 128, 1.7, 24 << 30, 936e9, 6, 100, 99, 1536),
    "rtx40": ("GeForce RTX 4090", 8, 9, 128, 128, 2.52, 24 << 30, 1008e9, 72, 100, 99, 1536),
    "rtx50": ("GeForce RTX 5090", 12, 0, 170, 128, 2.41, 32 << 30, 1792e9, 96, 100, 99, 1536),
    "t4": ("T4", 7, 5, 40, 64, 1.59, 16 << 30, 320e9, 4, 64, 64, 1024),
}
DEVICES = tuple(_GPUS)


def describe(device: str) -> str:
    """Returns the text of a device's proto."""
    name, major, minor, cores, fpus, clock, memory, bandwidth, l2, *shared, threads = _GPUS[device]
    # The oldest CUDA that drives every card of TensorFlow 2.21's wheel, and the pinned cuDNN.
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared[0] << 10}
  threads_per_core_limit: {threads}
  core_count: {cores}
  fpus_per_core: {fpus}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth:.0f}
  l2_cache_size: {l2 << 20}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
  shared_memory_per_block_optin: {shared[1] << 10}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  cuda_compute_capability {{ major: {major} minor: {minor} }}
}}
platform_name: "CUDA"
runtime_version {{ major: 12 minor: 5 }}
dnn_version_info {{ major: 9 minor: 28 }}
device_description_str: "NVIDIA {name}"
"""
