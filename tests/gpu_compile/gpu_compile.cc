// Compiles an HLO module for a GPU by the compiler in TensorFlow's wheel; no GPU is needed.
//
//   XLA_FLAGS=... gpu_compile MODULE.txt DEVICE.txtpb OPTIMIZED.txt
//
// Writes the optimized HLO. The flag --xla_dump_to has XLA write the PTX and the launches.

#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>

#include "google/protobuf/text_format.h"
#include "xla/backends/gpu/target_config/target_config.h"
#include "xla/debug_options_flags.h"
#include "xla/hlo/ir/hlo_module.h"
#include "xla/hlo/parser/hlo_parser.h"
#include "xla/service/compiler.h"
#include "xla/service/gpu_topology.h"
#include "xla/service/hlo_module_config.h"
#include "xla/stream_executor/device_description.pb.h"
#include "xla/stream_executor/platform.h"
#include "xla/stream_executor/platform_manager.h"

namespace {

std::string Read(const char* path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

absl::StatusOr<xla::gpu::GpuTargetConfig> ReadDevice(const char* path) {
  stream_executor::GpuTargetConfigProto proto;
  if (!google::protobuf::TextFormat::ParseFromString(Read(path), &proto)) {
    return absl::InvalidArgumentError(std::string("not a GpuTargetConfigProto: ") + path);
  }
  auto device = xla::gpu::GpuTargetConfig::FromProto(proto);
  if (!device.ok()) return device;
  // The description's own versions, which decide what a CUDA graph may hold, are not in the proto.
  const stream_executor::SemanticVersion cuda(
      proto.runtime_version().major(), proto.runtime_version().minor(), 0);
  device->device_description.set_driver_version(cuda);
  device->device_description.set_runtime_version(cuda);
  device->device_description.set_compile_time_toolkit_version(cuda);
  device->device_description.set_dnn_version(stream_executor::SemanticVersion(
      proto.dnn_version_info().major(), proto.dnn_version_info().minor(), 0));
  return device;
}

absl::Status Compile(const char* module_path, const char* device_path, const char* output_path) {
  auto device = ReadDevice(device_path);
  if (!device.ok()) return device.status();
  auto module = xla::ParseAndReturnUnverifiedModule(Read(module_path), xla::HloModuleConfig());
  if (!module.ok()) return module.status();
  (*module)->mutable_config().set_debug_options(xla::GetDebugOptionsFromFlags());
  auto platform = stream_executor::PlatformManager::PlatformWithName("CUDA");
  if (!platform.ok()) return platform.status();
  auto compiler = xla::Compiler::GetForPlatform((*platform)->id());
  if (!compiler.ok()) return compiler.status();

  xla::Compiler::CompileOptions options;
  options.gpu_topology = xla::GpuTopology((*platform)->Name(), /*num_partitions=*/1,
                                          /*num_hosts_per_partition=*/1,
                                          /*num_devices_per_host=*/1, *device);
  auto optimized = (*compiler)->RunHloPasses(std::move(*module), /*executor=*/nullptr, options);
  if (!optimized.ok()) return optimized.status();
  std::ofstream(output_path) << (*optimized)->ToString();
  return (*compiler)
      ->RunBackend(std::move(*optimized), /*executor=*/nullptr, options)
      .status();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: gpu_compile MODULE.txt DEVICE.txtpb OPTIMIZED.txt\n";
    return 2;
  }
  const absl::Status status = Compile(argv[1], argv[2], argv[3]);
  if (!status.ok()) std::cerr << "error: " << status.message() << "\n";
  return status.ok() ? 0 : 1;
}
