"""The networks that make_models.py writes: plain PyTorch, with the names of the published checkpoints."""

import math
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

LARGEST_TIME = 999


# --- what runtimes have forms of their own for


def attend(q, k, v, heads, causal=False):
    """Attention over [batch, tokens, dim]."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)


class OrtAttention(torch.autograd.Function):
    """`attend` as the one operation that ONNX Runtime has for it; its optimizer does not find it in these graphs."""

    @staticmethod
    def forward(_context, q, k, v, heads, causal=False):
        return attend(q, k, v, heads, causal)

    @staticmethod
    def symbolic(graph, q, k, v, heads, causal=False):
        result = graph.op("com.microsoft::MultiHeadAttention", q, k, v, num_heads_i=heads, unidirectional_i=int(causal))
        result.setType(q.type())
        return result


def channels_last_group_norm(x, groups, weight, bias, eps):
    """F.group_norm [n, c, h, w] in steps that LiteRT leaves channels-last, as its convolutions are."""
    x = x.permute(0, 2, 3, 1)
    mean = x.mean((1, 2), keepdim=True)
    variance = (x - mean).square().mean((1, 2), keepdim=True)
    mean, variance = (m.reshape(len(x), groups, -1) for m in (mean, variance))
    of_group = mean.mean(-1, keepdim=True)
    scale = torch.rsqrt((variance + (mean - of_group).square()).mean(-1, keepdim=True) + eps)
    scale = scale * weight.reshape(1, groups, -1)
    shift = bias.reshape(1, groups, -1) - of_group * scale
    x = x * scale.reshape(len(x), 1, 1, -1) + shift.reshape(len(x), 1, 1, -1)
    return x.permute(0, 3, 1, 2)


class Forms:
    """How networks compute these; write_onnx and write_tflite exchange them."""

    attend = staticmethod(attend)
    group_norm = staticmethod(F.group_norm)


@contextmanager
def form(name, function):
    usual = vars(Forms)[name]
    setattr(Forms, name, staticmethod(function))
    try:
        yield
    finally:
        setattr(Forms, name, usual)


# --- U-ViT (arXiv:2209.12152), class-conditional


class SelfAttention(nn.Module):
    def __init__(self, dim, heads, bias):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = self.qkv(x).split(x.shape[-1], dim=-1)  # chunk() would be exported as three slices of unknown size
        return self.proj(Forms.attend(q, k, v, self.heads))


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
        self.attn = SelfAttention(dim, config["num_heads"], config["qkv_bias"])
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
        self.frames = config.get("t_patch_size", 1)  # of a patch
        self.slabs = config.get("num_frames", 1) // self.frames
        self.patch_embed = PatchEmbed(chans, dim, patch)
        if config["mlp_time_embed"]:
            self.time_embed = nn.Sequential(nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))
        else:
            self.time_embed = nn.Identity()
        self.label_emb = nn.Embedding(config["num_classes"], dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, 2 + self.slabs * self.side**2, dim))
        half = config["depth"] // 2
        self.in_blocks = nn.ModuleList(Block(config, skip=False) for _ in range(half))
        self.mid_block = Block(config, skip=False)
        self.out_blocks = nn.ModuleList(Block(config, skip=True) for _ in range(half))
        self.norm = nn.LayerNorm(dim)
        self.decoder_pred = nn.Linear(dim, self.frames * patch**2 * chans)
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

    def picture_shape(self):
        return self.config["in_chans"], self.config["img_size"], self.config["img_size"]

    def random_inputs(self, batch):
        return {
            "x": torch.randn(batch, *self.picture_shape()),
            "t": torch.rand(batch) * LARGEST_TIME,
            "y": torch.randint(0, self.config["num_classes"], (batch,), dtype=torch.int32),
        }


# --- the same on clips, with patches of several frames


class ClipPatchEmbed(nn.Module):
    """A Conv3d whose kernel is its stride, as the Conv2d that it is over the frames of a patch one below the other: runtimes
    have fast kernels for that."""

    def __init__(self, chans, dim, patch, frames):
        super().__init__()
        self.proj = nn.Conv3d(chans, dim, kernel_size=(frames, patch, patch), stride=(frames, patch, patch))

    def forward(self, x):
        chans, size, (frames, patch, _) = x.shape[1], x.shape[-1], self.proj.kernel_size
        slabs = x.shape[2] // frames
        x = x.reshape(-1, chans, slabs, frames, size, size).transpose(1, 2).reshape(-1, chans * frames, size, size)
        x = F.conv2d(x, self.proj.weight.flatten(1, 2), self.proj.bias, stride=patch)
        return x.flatten(2).transpose(1, 2).reshape(-1, slabs * (size // patch) ** 2, x.shape[1])


class UViTVideo(UViT):
    """x [n, chans, frames, size, size], t [n] from 0 to 999, y [n] -> [n, chans, frames, size, size]"""

    def __init__(self, config):
        super().__init__(config)
        self.patch_embed = ClipPatchEmbed(
            config["in_chans"], config["embed_dim"], config["patch_size"], config["t_patch_size"]
        )

    def picture_shape(self):
        chans, *size = super().picture_shape()
        return chans, self.config["num_frames"], *size

    def forward(self, x, t, y):
        """The last convolution smooths every frame by itself."""
        chans, frames, *size = self.picture_shape()
        return super().forward(x, t, y).reshape(-1, frames, chans, *size).transpose(1, 2)

    def unpatchify(self, patches):
        """[n, tokens, (frame, row, column, channel) of a patch] -> [n frames, channel, size, size]"""
        patch, chans, size = self.config["patch_size"], self.config["in_chans"], self.config["img_size"]
        grid = patches.reshape(-1, self.side, self.side, self.frames, patch, patch * chans)
        return grid.permute(0, 3, 1, 4, 2, 5).reshape(-1, size, size, chans).permute(0, 3, 1, 2)


# --- the decoder of latent diffusion's autoencoder (arXiv:2112.10752), with diffusers' names


class GroupNorm(nn.GroupNorm):
    def forward(self, x):
        return Forms.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def group_norm(channels, config):
    return GroupNorm(config["norm_num_groups"], channels, eps=1e-6)


def convolution(ins, outs):
    return nn.Conv2d(ins, outs, 3, padding=1)


class ResnetBlock(nn.Module):
    def __init__(self, ins, outs, config):
        super().__init__()
        self.norm1, self.conv1 = group_norm(ins, config), convolution(ins, outs)
        self.norm2, self.conv2 = group_norm(outs, config), convolution(outs, outs)
        self.conv_shortcut = nn.Conv2d(ins, outs, 1) if ins != outs else nn.Identity()

    def forward(self, x):
        y = self.conv1(F.silu(self.norm1(x)))
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(y)))


class SpatialAttention(nn.Module):
    """One head, over all pixels."""

    def __init__(self, channels, config):
        super().__init__()
        self.group_norm = group_norm(channels, config)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x):
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        tokens = self.to_out[0](Forms.attend(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens), 1))
        return x + tokens.transpose(1, 2).reshape(x.shape)


class MidBlock(nn.Module):
    def __init__(self, channels, config):
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, config) for _ in range(2))
        self.attentions = nn.ModuleList([SpatialAttention(channels, config)])

    def forward(self, x):
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = convolution(channels, channels)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class UpBlock(nn.Module):
    def __init__(self, ins, outs, last, config):
        super().__init__()
        blocks = config["layers_per_block"] + 1
        self.resnets = nn.ModuleList(ResnetBlock(ins if i == 0 else outs, outs, config) for i in range(blocks))
        self.upsamplers = nn.ModuleList([] if last else [Upsample(outs)])

    def forward(self, x):
        for layer in [*self.resnets, *self.upsamplers]:
            x = layer(x)
        return x


class Decoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        widths = config["block_out_channels"][::-1]
        self.conv_in = convolution(config["latent_channels"], widths[0])
        self.mid_block = MidBlock(widths[0], config)
        ends = zip([widths[0], *widths], widths)
        self.up_blocks = nn.ModuleList(
            UpBlock(ins, outs, i == len(widths) - 1, config) for i, (ins, outs) in enumerate(ends)
        )
        self.conv_norm_out = group_norm(widths[-1], config)
        self.conv_out = convolution(widths[-1], config["out_channels"])

    def forward(self, x):
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class AutoencoderDecoder(nn.Module):
    """z [n, latent_channels, size / 8, size / 8] -> [n, out_channels, size, size], with four levels"""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.post_quant_conv = nn.Conv2d(config["latent_channels"], config["latent_channels"], 1)
        self.decoder = Decoder(config)

    def forward(self, z):
        return self.decoder(self.post_quant_conv(z))

    def random_inputs(self, batch):
        size = self.config["sample_size"] >> (len(self.config["block_out_channels"]) - 1)
        return {"z": torch.randn(batch, self.config["latent_channels"], size, size)}


# --- CLIP's text encoder (arXiv:2103.00020), with transformers' names


class ClipAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x):
        return self.out_proj(Forms.attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.heads, True))


class ClipMlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x):
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))  # quick_gelu


class ClipLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        dim = config["hidden_size"]
        self.layer_norm1, self.self_attn = nn.LayerNorm(dim), ClipAttention(dim, config["num_attention_heads"])
        self.layer_norm2, self.mlp = nn.LayerNorm(dim), ClipMlp(dim, config["intermediate_size"])

    def forward(self, x):
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class ClipText(nn.Module):
    """input_ids [n, tokens] -> the last hidden state [n, tokens, hidden_size]"""

    def __init__(self, config):
        super().__init__()
        self.config = config
        dim, tokens = config["hidden_size"], config["max_position_embeddings"]
        text_model = nn.Module()
        text_model.embeddings = nn.Module()
        text_model.embeddings.token_embedding = nn.Embedding(config["vocab_size"], dim)
        text_model.embeddings.position_embedding = nn.Embedding(tokens, dim)
        text_model.encoder = nn.Module()
        text_model.encoder.layers = nn.ModuleList(ClipLayer(config) for _ in range(config["num_hidden_layers"]))
        text_model.final_layer_norm = nn.LayerNorm(dim)
        self.text_model = text_model

    def forward(self, input_ids):
        embeddings = self.text_model.embeddings
        x = embeddings.token_embedding(input_ids) + embeddings.position_embedding.weight
        for layer in self.text_model.encoder.layers:
            x = layer(x)
        return self.text_model.final_layer_norm(x)

    def random_inputs(self, batch):
        ids = torch.randint(0, self.config["vocab_size"], (batch, self.config["max_position_embeddings"]))
        return {"input_ids": ids.to(torch.int32)}
