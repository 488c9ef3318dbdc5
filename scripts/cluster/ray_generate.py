"""Draws one run of `uvit generate --out-npz` as Ray tasks, a shard each, and merges what they write.

    python scripts/cluster/ray_generate.py MODEL --count N --shards N --out FILE.npz [--uvit PATH] -- [options of generate]

The folder of FILE must be one that all nodes share. A task whose node is lost runs again, and goes on where it was.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import ray


@ray.remote(max_retries=3)
def shard(command):
    subprocess.run(command, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--shards", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--uvit", default="uvit", help="the tool")
    parser.add_argument("--cpus", type=float, default=1, help="cores of a task")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of a task")
    # What follows -- is for `uvit generate`, --seed among it.
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    a, options = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]

    ray.init()
    out = a.out.resolve()
    parts = [out.with_suffix(f".{i}.npz") for i in range(a.shards)]
    base = [a.uvit, "generate", str(Path(a.model).resolve()), *options, "--count", str(a.count)]
    commands = [[*base, "--shard", f"{i}/{a.shards}", "--out-npz", str(part)] for i, part in enumerate(parts)]
    task = shard.options(num_cpus=a.cpus, num_gpus=a.gpus)
    ray.get([task.remote(command) for command in commands])
    subprocess.run([a.uvit, "merge", str(out), *map(str, parts)], check=True)
    for part in parts:
        part.unlink()


if __name__ == "__main__":
    main()
