#!/usr/bin/env python3
"""Makes the .pth files beside it, with torch 2.8.0: tests/weights/make_fixtures.py

  tiny.pth       the state_dict of tests/goldens/uvit_small_activations, in the form that published ones have
  dtypes.pth     the same values as float64, float32, float16, bfloat16, and things that are no weights
  nested.pth     the same tensors inside a training checkpoint, under "state_dict", with "module." before each name
  view.pth       a tensor that is a view into another one's storage
  huge.pth       a tensor that claims far more than the file holds
  code.pth       a pickle that would run a command, were it executed
"""
import os
import pathlib
import pickle
import zipfile
from collections import OrderedDict

import torch
from safetensors.torch import load_file

HERE = pathlib.Path(__file__).resolve().parent
state = load_file(HERE.parent / "goldens/uvit_small_activations/weights.safetensors")
# As torch.nn.Module.state_dict() gives it: ordered, with the modules' versions as an attribute.
published = OrderedDict((k, v.clone()) for k, v in state.items())
published._metadata = OrderedDict([("", {"version": 1}), ("norm", {"version": 1})])
torch.save(published, HERE / "tiny.pth")
torch.save({"step": 7, "state_dict": {f"module.{k}": v for k, v in state.items()}}, HERE / "nested.pth")

# One tensor a dtype, the same values, and what a checkpoint may hold beside weights.
values = torch.tensor([[0.0, 1.0, -2.0], [0.5, 256.0, -0.125]])
dtypes = {str(dtype).split(".")[1]: values.to(dtype) for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)}
torch.save(OrderedDict(dtypes, counter=torch.tensor(3), lr=0.1), HERE / "dtypes.pth")

base = torch.arange(8, dtype=torch.float32)
torch.save({"a": base, "b": base[4:]}, HERE / "view.pth")


class Command:
    """Unpickled by Python, this would create a file."""

    def __reduce__(self):
        return os.system, ("touch /tmp/uvit-web-ran-code",)


with zipfile.ZipFile(HERE / "code.pth", "w") as archive:
    archive.writestr("code/data.pkl", pickle.dumps({"a": Command()}, protocol=2))
    archive.writestr("code/version", "3\n")

torch.save({"a": torch.zeros(4)}, HERE / "small.pth")
with zipfile.ZipFile(HERE / "small.pth") as source, zipfile.ZipFile(HERE / "huge.pth", "w") as archive:
    for name in source.namelist():
        data = source.read(name)
        if name.endswith("data.pkl"):
            # The shape (4,) with stride (1,): one byte each after BININT1.
            assert data.count(b"K\x04\x85") == 1
            data = data.replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85")
        archive.writestr(name, data)
(HERE / "small.pth").unlink()
