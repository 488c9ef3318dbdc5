#!/usr/bin/env python3
"""Writes one set of weights in the format of every runtime that scripts/bench times: U-ViTs, the decoder of an
autoencoder, a text encoder.

    make_models.py OUT [--models emoji,uvit_s2,...] [--emoji-weights FILE]

For each NAME it writes into OUT

    NAME.json                the architecture and its parameters, under the published names; of what is no U-ViT also which
                             component it is
    NAME.safetensors         the weights in f32, under the published names
    NAME.denoiser.safetensors  of what is no U-ViT: a tiny one, without which uvit-web has no model
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
import pathlib
import warnings

import torch
from networks import AutoencoderDecoder, ClipText, OrtAttention, UViT, UViTVideo, channels_last_group_norm, form
from safetensors.torch import load_file, save_file
from torch import nn

COMMON = dict(mlp_ratio=4, mlp_time_embed=False, qkv_bias=False, conv=True)
UVITS = {
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
CLIPS = {
    # The embedded model of clips.
    "clips": dict(
        COMMON, img_size=32, num_frames=16, patch_size=4, t_patch_size=4, in_chans=3, embed_dim=192, depth=6, num_heads=4,
        num_classes=9,
    ),
}
DECODER = dict(
    latent_channels=4, out_channels=3, layers_per_block=2, norm_num_groups=32, use_post_quant_conv=True,
    scaling_factor=1.0, shift_factor=0.0,
)
DECODERS = {
    # Stable Diffusion's, at a size that a CPU decodes in a second or two.
    "kl_decoder": dict(DECODER, sample_size=128, block_out_channels=[128, 256, 512, 512]),
    # The same on a quarter of the pixels, for software adapters.
    "kl_decoder_small": dict(DECODER, sample_size=64, block_out_channels=[128, 256, 512, 512]),
}
TEXT_ENCODERS = {
    # Half of the layers of CLIP ViT-L/14's, and of its words only the bytes: rows are looked up, however many there are.
    "clip_text": dict(
        vocab_size=514, hidden_size=768, intermediate_size=3072, num_hidden_layers=6, num_attention_heads=12,
        max_position_embeddings=77, hidden_act="quick_gelu",
    ),
}
MODELS = [*UVITS, *CLIPS, *DECODERS, *TEXT_ENCODERS]


def network(name):
    """The network of a name, and what uvit-web calls it: the component, its architecture."""
    if name in DECODERS:
        return AutoencoderDecoder(DECODERS[name]), "decoder", "autoencoder_kl_decoder"
    if name in TEXT_ENCODERS:
        return ClipText(TEXT_ENCODERS[name]), "text_encoder", "clip_text"
    if name in CLIPS:
        return UViTVideo(CLIPS[name]), "denoiser", "uvit_video"
    return UViT(UVITS[name]), "denoiser", "uvit"


def batches(component):
    """Latents are decoded one by one; a prompt comes with a negative one."""
    return (1,) if component == "decoder" else (1, 2)


def make_model(name, weights):
    torch.manual_seed(0)
    model, component, architecture = network(name)
    if weights is not None:
        model.load_state_dict({key: value.float() for key, value in load_file(weights).items()})
    else:
        randomise(model)
    model.component, model.architecture = component, architecture
    return model.eval()


def randomise(model):
    """Wider than for training: the output must depend on every layer, or errors in one would not show."""
    for key, parameter in model.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02 if "emb" in key else parameter[0].numel() ** -0.5)


def write_denoiser(model, stem):
    """The tiny U-ViT that a component needs beside it, of which nothing is timed; returns its architecture."""
    config = dict(COMMON, img_size=16, patch_size=2, in_chans=4, embed_dim=32, depth=2, num_heads=1, num_classes=1)
    if model.component == "decoder":
        config["img_size"] = model.random_inputs(1)["z"].shape[-1]
    denoiser = UViT(config)
    if model.component == "text_encoder":  # a text's tokens are in the place of the label's
        tokens, width = model.config["max_position_embeddings"], model.config["hidden_size"]
        del denoiser.label_emb, config["num_classes"]
        denoiser.context_embed = nn.Linear(width, config["embed_dim"])
        denoiser.pos_embed = nn.Parameter(torch.zeros(1, 1 + tokens + denoiser.side**2, config["embed_dim"]))
        config |= {"architecture": "uvit_t2i", "clip_dim": width, "num_clip_token": tokens}
    randomise(denoiser)
    save_file(denoiser.state_dict(), f"{stem}.denoiser.safetensors")
    return config


# --- the formats


def write_reference(model, stem):
    """Weights, architecture, inputs and outputs; returns the latter two."""
    torch.manual_seed(1)
    io = {}
    for batch in batches(model.component):
        inputs = model.random_inputs(batch)
        with torch.no_grad():
            out = model(**inputs)
        io |= {f"{key}{batch}": value.contiguous() for key, value in {**inputs, "out": out}.items()}
    save_file(io, f"{stem}.io.safetensors")
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, f"{stem}.safetensors")
    described = {"name": stem.name, "architecture": model.architecture, **model.config}
    if model.component != "denoiser":
        kind = {"component": model.component, "architecture": model.architecture}
        described = {"name": stem.name, **kind, "params": model.config, "denoiser": write_denoiser(model, stem)}
    pathlib.Path(f"{stem}.json").write_text(json.dumps(described, indent=1) + "\n")
    return io


def write_onnx(model, stem):
    """f32 with ONNX Runtime's fusions, and int8."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    raw, f32 = f"{stem}.raw.onnx", f"{stem}.onnx"
    inputs = model.random_inputs(2)
    with form("attend", OrtAttention.apply), warnings.catch_warnings():
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
    kind = {"denoiser": "vit", "decoder": "vae", "text_encoder": "clip"}[model.component]
    options = FusionOptions(kind)
    options.enable_group_norm = options.enable_nhwc_conv = False  # their results have no kernel in wasm
    fused = optimizer.optimize_model(
        raw,
        model_type=kind,
        num_heads=model.config.get("num_heads", 0),
        hidden_size=model.config.get("embed_dim", 0),
        opt_level=0,
        optimization_options=options,
        use_gpu=True,  # the fusions that both kinds of device have; not that anything runs on one
    )
    fused.save_model_to_file(f32)
    pathlib.Path(raw).unlink()
    quantize_dynamic(
        f32,
        f"{stem}.int8.onnx",
        op_types_to_quantize=["MatMul", "Gemm"],  # its ConvInteger takes six times as long in wasm as its Conv in f32
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
    with form("group_norm", channels_last_group_norm):
        litert_torch.convert(model, tuple(model.random_inputs(batch).values())).export(f32)
    quantised = quantizer.Quantizer(f32)
    quantised.load_quantization_recipe(recipe.dynamic_wi8_afp32())
    quantised.quantize().export_model(f"{stem}.b{batch}.int8.tflite", overwrite=True)


def print_errors(model, stem, io):
    """What ONNX Runtime makes of its files outside the browser."""
    import onnxruntime

    batch = batches(model.component)[-1]
    inputs = {key: io[f"{key}{batch}"].numpy() for key in model.random_inputs(1)}
    wanted = io[f"out{batch}"]
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
        for batch in batches(model.component):
            write_tflite(model, stem, batch)
        print_errors(model, stem, io)


if __name__ == "__main__":
    main()
