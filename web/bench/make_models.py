#!/usr/bin/env python3
"""Writes one set of U-ViT weights in the format of every runtime that scripts/bench times.

    make_models.py OUT [--models emoji,uvit_s2,uvit_bias] [--emoji-weights FILE]

For each NAME it writes into OUT

    NAME.json                the architecture, under the names of the published constructor
    NAME.safetensors         the weights in f32, under the published names
    NAME.io.safetensors      inputs and PyTorch's output: x1, t1, y1, out1 (batch 1), x2, t2, y2, out2 (batch 2)
    NAME.onnx                for onnxruntime-web: f32, any batch, its own fusions applied
    NAME.int8.onnx           the same with weights in int8 and activations quantised as they come
    NAME.bN.tflite           for LiteRT.js: f32, batch N
    NAME.bN.int8.tflite      the same, quantised likewise

Weights are random, with a fixed seed, unless --emoji-weights gives the trained ones. Times do not depend on them; the
errors of int8 do, and are larger for random weights.
"""

import argparse
import json
import math
import pathlib
import warnings

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

COMMON = dict(mlp_ratio=4, mlp_time_embed=False, qkv_bias=False, conv=True)
MODELS = {
    "emoji": dict(
        COMMON, img_size=64, patch_size=8, in_chans=3, embed_dim=256, depth=8, num_heads=4, num_classes=31
    ),
    # U-ViT-S/2 on the latents of ImageNet 256x256.
    "uvit_s2": dict(
        COMMON, img_size=32, patch_size=2, in_chans=4, embed_dim=512, depth=12, num_heads=8, num_classes=1001
    ),
    # What the others lack: a bias on q, k and v, an embedding of the time in layers, and no convolution at the end.
    "uvit_bias": dict(
        img_size=32, patch_size=2, in_chans=3, embed_dim=384, depth=8, num_heads=6, num_classes=10,
        mlp_ratio=4, mlp_time_embed=True, qkv_bias=True, conv=False,
    ),
}
BATCHES = (1, 2)
LARGEST_TIME = 999


# --- U-ViT (arXiv:2209.12152), class-conditional, with the names of the published checkpoints


def attend(q, k, v, heads):
    """Attention over [batch, tokens, dim]."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class OrtAttention(torch.autograd.Function):
    """`attend` as the one operation that ONNX Runtime has for it; its optimizer does not find it in this graph."""

    @staticmethod
    def forward(_context, q, k, v, heads):
        return attend(q, k, v, heads)

    @staticmethod
    def symbolic(graph, q, k, v, heads):
        result = graph.op("com.microsoft::MultiHeadAttention", q, k, v, num_heads_i=heads)
        result.setType(q.type())
        return result


class Attention(nn.Module):
    attend = staticmethod(attend)  # what write_onnx exchanges

    def __init__(self, dim, heads, bias):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = self.qkv(x).split(x.shape[-1], dim=-1)  # chunk() would be exported as three slices of unknown size
        return self.proj(Attention.attend(q, k, v, self.heads))


class Mlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, config, skip):
        super().__init__()
        dim = config["embed_dim"]
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, config["num_heads"], config["qkv_bias"])
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * config["mlp_ratio"]))
        if skip:
            self.skip_linear = nn.Linear(2 * dim, dim)

    def forward(self, x, skip=None):
        if skip is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, chans, dim, patch):
        super().__init__()
        self.proj = nn.Conv2d(chans, dim, kernel_size=patch, stride=patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class UViT(nn.Module):
    """x [n, chans, size, size], t [n] from 0 to 999, y [n] -> [n, chans, size, size]"""

    def __init__(self, config):
        super().__init__()
        self.config = config
        dim, chans, patch = config["embed_dim"], config["in_chans"], config["patch_size"]
        self.side = config["img_size"] // patch
        self.patch_embed = PatchEmbed(chans, dim, patch)
        if config["mlp_time_embed"]:
            self.time_embed = nn.Sequential(nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))
        else:
            self.time_embed = nn.Identity()
        self.label_emb = nn.Embedding(config["num_classes"], dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, 2 + self.side**2, dim))
        half = config["depth"] // 2
        self.in_blocks = nn.ModuleList(Block(config, skip=False) for _ in range(half))
        self.mid_block = Block(config, skip=False)
        self.out_blocks = nn.ModuleList(Block(config, skip=True) for _ in range(half))
        self.norm = nn.LayerNorm(dim)
        self.decoder_pred = nn.Linear(dim, patch**2 * chans)
        self.final_layer = nn.Conv2d(chans, chans, 3, padding=1) if config["conv"] else nn.Identity()
        frequencies = torch.exp(-math.log(10000) * torch.arange(dim // 2) / (dim // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, x, t, y):
        angles = t[:, None] * self.frequencies
        time = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=-1))[:, None]
        tokens = torch.cat([self.label_emb(y)[:, None], time, self.patch_embed(x)], dim=1) + self.pos_embed
        skips = []
        for block in self.in_blocks:
            tokens = block(tokens)
            skips.append(tokens)
        tokens = self.mid_block(tokens)
        for block in self.out_blocks:
            tokens = block(tokens, skips.pop())
        patches = self.decoder_pred(self.norm(tokens))[:, 2:]
        return self.final_layer(self.unpatchify(patches))

    def unpatchify(self, patches):
        """[n, tokens, (row, column, channel) of a patch] -> [n, channel, size, size]"""
        patch, chans, size = self.config["patch_size"], self.config["in_chans"], self.config["img_size"]
        grid = patches.reshape(-1, self.side, self.side, patch, patch, chans)
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(-1, chans, size, size)

    def random_inputs(self, batch):
        size = self.config["img_size"]
        return {
            "x": torch.randn(batch, self.config["in_chans"], size, size),
            "t": torch.rand(batch) * LARGEST_TIME,
            "y": torch.randint(0, self.config["num_classes"], (batch,), dtype=torch.int32),
        }


def make_model(name, weights):
    torch.manual_seed(0)
    model = UViT(MODELS[name])
    if weights is not None:
        model.load_state_dict({key: value.float() for key, value in load_file(weights).items()})
        return model.eval()
    for key, parameter in model.named_parameters():
        # Wider than for training: the output must depend on every layer, or errors in one would not show.
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02 if "emb" in key else parameter[0].numel() ** -0.5)
    return model.eval()


# --- the formats


def write_reference(model, stem):
    """Weights, architecture, inputs and outputs; returns the latter two."""
    torch.manual_seed(1)
    io = {}
    for batch in BATCHES:
        inputs = model.random_inputs(batch)
        with torch.no_grad():
            out = model(**inputs)
        io |= {f"{key}{batch}": value.contiguous() for key, value in {**inputs, "out": out}.items()}
    save_file(io, f"{stem}.io.safetensors")
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, f"{stem}.safetensors")
    pathlib.Path(f"{stem}.json").write_text(json.dumps({"name": stem.name, **model.config}, indent=1) + "\n")
    return io


def write_onnx(model, stem):
    """f32 with ONNX Runtime's fusions, and int8."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    raw, f32 = f"{stem}.raw.onnx", f"{stem}.onnx"
    inputs = model.random_inputs(2)
    Attention.attend = OrtAttention.apply
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing: what it would fix does not depend on the inputs
            torch.onnx.export(
                model,
                tuple(inputs.values()),
                raw,
                input_names=list(inputs),
                output_names=["out"],
                dynamic_axes={key: {0: "batch"} for key in [*inputs, "out"]},
                opset_version=17,
                dynamo=False,
            )
    finally:
        Attention.attend = staticmethod(attend)
    fused = optimizer.optimize_model(
        raw,
        model_type="vit",
        num_heads=model.config["num_heads"],
        hidden_size=model.config["embed_dim"],
        opt_level=0,
        use_gpu=True,  # the fusions that both kinds of device have; not that anything runs on one
    )
    fused.save_model_to_file(f32)
    pathlib.Path(raw).unlink()
    quantize_dynamic(
        f32,
        f"{stem}.int8.onnx",
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
    )


def write_tflite(model, stem, batch):
    """f32, and int8."""
    from torch.export.graph_signature import ExportGraphSignature

    if not hasattr(ExportGraphSignature, "parameters_to_mutate"):
        # litert-torch 0.10 asks for a property that torch has had since 2.9.
        ExportGraphSignature.parameters_to_mutate = property(lambda _: {})
    import litert_torch
    from ai_edge_quantizer import quantizer, recipe

    f32 = f"{stem}.b{batch}.tflite"
    litert_torch.convert(model, tuple(model.random_inputs(batch).values())).export(f32)
    quantised = quantizer.Quantizer(f32)
    quantised.load_quantization_recipe(recipe.dynamic_wi8_afp32())
    quantised.quantize().export_model(f"{stem}.b{batch}.int8.tflite", overwrite=True)


def print_errors(stem, io):
    """What ONNX Runtime makes of its files outside the browser."""
    import onnxruntime

    inputs = {key: io[f"{key}2"].numpy() for key in ("x", "t", "y")}
    wanted = io["out2"]
    for kind in ("", ".int8"):
        file = f"{stem}{kind}.onnx"
        found = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, inputs)[0]
        error = (torch.from_numpy(found) - wanted).abs().max() / wanted.abs().max()
        print(f"{file}: largest error {error:.1e} of the largest output", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="the folder to write into")
    parser.add_argument("--models", default=",".join(MODELS), help="which, separated by commas")
    parser.add_argument("--emoji-weights", type=pathlib.Path, help="the emoji model's f32 checkpoint (.safetensors)")
    arguments = parser.parse_args()
    names = arguments.models.split(",")
    for name in names:
        if name not in MODELS:
            parser.error(f"there is no model {name!r}: give some of {', '.join(MODELS)}")
    if arguments.emoji_weights is not None and not arguments.emoji_weights.is_file():
        parser.error(f"there is no file {arguments.emoji_weights}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in names:
        print(f"making {name}", flush=True)
        stem = arguments.out / name
        model = make_model(name, arguments.emoji_weights if name == "emoji" else None)
        io = write_reference(model, stem)
        write_onnx(model, stem)
        for batch in BATCHES:
            write_tflite(model, stem, batch)
        print_errors(stem, io)


if __name__ == "__main__":
    main()
