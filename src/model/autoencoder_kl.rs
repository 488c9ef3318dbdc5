//! The autoencoder of latent diffusion (Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR
//! 2022), the two halves as networks of their own: who only draws needs no encoder. Follows `AutoencoderKL` of
//! huggingface/diffusers 0.42.1 (`models/autoencoders/autoencoder_kl.py`, `vae.py`), tensor names included; the original of
//! CompVis and that of U-ViT (`libs/autoencoder.py`) are the same under other names.

use super::transformer::{unsupported, within};
use super::{Batch, Port, PortKind, Recording};
use crate::Result;
use crate::decimal::decimal;
use crate::json::{self, Fields, Read, Value};
use crate::plan::{Activation, Op, Plan, Precision, Role, TensorId, Window};

/// The published configuration, under its names.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Channels of a picture that is encoded.
    pub in_channels: usize,
    /// Channels of a picture that was decoded.
    pub out_channels: usize,
    /// Channels of every level, that of whole pictures first.
    pub block_out_channels: Vec<usize>,
    /// Channels of the encoder's first convolution, `ch` in the original code; 0: those of the first level.
    pub base_channels: usize,
    /// Residual blocks of a level; the decoder has one more.
    pub layers_per_block: usize,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Groups of every GroupNorm.
    pub norm_num_groups: usize,
    /// Height and width of a picture, where nothing else is said.
    pub sample_size: usize,
    /// A latent as denoisers see it is `(mean + .. - shift_factor) scaling_factor`.
    pub scaling_factor: f64,
    /// See there.
    pub shift_factor: f64,
    /// Whether a 1x1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether one comes before the decoder.
    pub use_post_quant_conv: bool,
}

json::fields!(Config {
    in_channels = 3,
    out_channels = 3,
    block_out_channels,
    base_channels = 0,
    layers_per_block = 1,
    latent_channels = 4,
    norm_num_groups = 32,
    sample_size = 256,
    scaling_factor = 0.18215,
    shift_factor = 0.0,
    use_quant_conv = true,
    use_post_quant_conv = true,
});

/// Of every GroupNorm.
const EPS: f32 = 1e-6;

impl Config {
    /// Reads diffusers' configuration, or the original one (`ddconfig`, `embed_dim`, `scale_factor`).
    ///
    /// # Errors
    /// What is missing or wrong.
    pub fn of(params: &Value) -> json::Result<Config> {
        let fields = Fields::of(params)?;
        let Some(original) = fields.value("ddconfig") else { return Config::read(params) };
        let original = Fields::of(original)?;
        let channels: usize = original.required("ch")?;
        let levels: Vec<usize> = original.required("ch_mult")?;
        let attended: Vec<usize> = original.or("attn_resolutions", Vec::new())?;
        let latent_channels = original.required("z_channels")?;
        let embedded = fields.or("embed_dim", latent_channels)?;
        if !attended.is_empty() || embedded != latent_channels {
            return Err(
                "attention in levels (attn_resolutions) and an embed_dim unlike z_channels are not built".into()
            );
        }
        Ok(Config {
            in_channels: original.or("in_channels", 3)?,
            out_channels: original.or("out_ch", 3)?,
            block_out_channels: levels.iter().map(|by| channels.saturating_mul(*by)).collect(),
            base_channels: if levels.first() == Some(&1) { 0 } else { channels },
            layers_per_block: original.required("num_res_blocks")?,
            latent_channels,
            norm_num_groups: 32,
            sample_size: original.or("resolution", 256)?,
            scaling_factor: fields.or("scale_factor", 0.18215)?,
            shift_factor: 0.0,
            use_quant_conv: true,
            use_post_quant_conv: true,
        })
    }

    fn first_channels(&self) -> usize {
        if self.base_channels > 0 { self.base_channels } else { self.block_out_channels.first().copied().unwrap_or(0) }
    }

    /// Pixels of a picture to one of a latent, in either direction.
    pub fn downsampling(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1).min(16)
    }

    /// Pixels of a latent.
    pub fn tokens(&self) -> usize {
        (self.sample_size / self.downsampling()).pow(2)
    }

    fn validate(&self, [height, width]: [usize; 2]) -> Result<()> {
        for (name, value, most) in [
            ("in_channels", self.in_channels, 16),
            ("out_channels", self.out_channels, 16),
            ("block_out_channels", self.block_out_channels.len(), 8),
            ("layers_per_block", self.layers_per_block, 16),
            ("latent_channels", self.latent_channels, 64),
            ("norm_num_groups", self.norm_num_groups, 512),
            ("a picture's height", height, 8192),
            ("a picture's width", width, 8192),
        ] {
            within(name, value, most)?;
        }
        for &channels in [self.first_channels()].iter().chain(&self.block_out_channels) {
            within("block_out_channels", channels, 2048)?;
            if !channels.is_multiple_of(self.norm_num_groups) || !channels.is_multiple_of(4) {
                let cause = format!("{channels} channels are not {} groups, or no fours", self.norm_num_groups);
                return Err(unsupported(cause));
            }
        }
        let by = self.downsampling();
        if !height.is_multiple_of(by) || !width.is_multiple_of(by) {
            return Err(unsupported(format!("{height} x {width} pixels are no multiple of {by}")));
        }
        if self.block_out_channels.last().is_some_and(|&channels| channels > 512) {
            return Err(unsupported("attention has more than 512 channels".into()));
        }
        if !(self.scaling_factor.is_finite() && self.scaling_factor != 0.0 && self.shift_factor.is_finite()) {
            return Err(unsupported(format!("scaling_factor is {}", decimal(self.scaling_factor))));
        }
        Ok(())
    }

    /// Records the decoder: ports `z [items, latent_channels, h, w]`, a latent as denoisers draw it, and `decoded [items,
    /// out_channels, H, W]`, about -1 to 1, not clipped. The batch's size is that of the latents.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL` if the parameters contradict each other.
    pub fn decoder(&self, batch: Batch) -> Result<Recording> {
        let by = self.downsampling();
        let [height, width] = batch.size.unwrap_or([self.sample_size / by; 2]);
        self.validate([height.saturating_mul(by), width.saturating_mul(by)])?;
        let items = batch.items();
        let mut b = Builder { plan: Plan::default(), groups: self.norm_num_groups };
        let z = b.plan.tensor("z", &[items, self.latent_channels, height, width], Role::Input);
        let unscaled = b.plan.affine(z, (1.0 / self.scaling_factor) as f32, self.shift_factor as f32);
        let mut x = b.plan.image_tokens(unscaled);
        if self.use_post_quant_conv {
            x = b.plan.linear("post_quant_conv", x, None, self.latent_channels, true);
        }
        let mut size = [height, width];
        let mut channels = self.block_out_channels.iter().rev().copied();
        let deepest = channels.next().unwrap_or(4);
        x = b.plan.convolution("decoder.conv_in", x, Window::plain(size), deepest, true);
        x = b.middle("decoder", x, size);
        for (i, out) in [deepest].into_iter().chain(channels).enumerate() {
            let name = format!("decoder.up_blocks.{i}");
            for j in 0..=self.layers_per_block {
                x = b.residual(&format!("{name}.resnets.{j}"), x, size, out);
            }
            if i + 1 < self.block_out_channels.len() {
                x = b.convolution(&format!("{name}.upsamplers.0.conv"), x, Window::upsampled(size), out);
                size = size.map(|n| 2 * n);
            }
        }
        x = b.norm("decoder.conv_norm_out", x);
        x = b.plan.convolution("decoder.conv_out", x, Window::plain(size), self.out_channels, true);
        let decoded = b.plan.image("decoded", x, size, Role::Output);
        let ports = vec![
            Port { name: "z", kind: PortKind::Floats, tensor: z },
            Port { name: "decoded", kind: PortKind::Output, tensor: decoded },
        ];
        Ok(Recording { plan: b.plan, ports, sampled: Vec::new() })
    }

    /// Records the encoder: ports `image [items, in_channels, H, W]` in [-1, 1], and `moments [items, 2 latent_channels, h, w]`:
    /// means, then logarithms of variances, not scaled. The batch's size is that of the picture.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL` if the parameters contradict each other.
    pub fn encoder(&self, batch: Batch) -> Result<Recording> {
        let mut size = batch.size.unwrap_or([self.sample_size; 2]);
        self.validate(size)?;
        let mut b = Builder { plan: Plan::default(), groups: self.norm_num_groups };
        let image = b.plan.tensor("image", &[batch.items(), self.in_channels, size[0], size[1]], Role::Input);
        let mut x = b.plan.image_tokens(image);
        x = b.plan.convolution("encoder.conv_in", x, Window::plain(size), self.first_channels(), true);
        for (i, &out) in self.block_out_channels.iter().enumerate() {
            let name = format!("encoder.down_blocks.{i}");
            for j in 0..self.layers_per_block {
                x = b.residual(&format!("{name}.resnets.{j}"), x, size, out);
            }
            if i + 1 < self.block_out_channels.len() {
                x = b.convolution(&format!("{name}.downsamplers.0.conv"), x, Window::strided(size, 0), out);
                size = size.map(|n| n / 2);
            }
        }
        x = b.middle("encoder", x, size);
        x = b.norm("encoder.conv_norm_out", x);
        x = b.plan.convolution("encoder.conv_out", x, Window::plain(size), 2 * self.latent_channels, true);
        if self.use_quant_conv {
            x = b.plan.linear("quant_conv", x, None, 2 * self.latent_channels, true);
        }
        let moments = b.plan.image("moments", x, size, Role::Output);
        let ports = vec![
            Port { name: "image", kind: PortKind::Floats, tensor: image },
            Port { name: "moments", kind: PortKind::Output, tensor: moments },
        ];
        Ok(Recording { plan: b.plan, ports, sampled: Vec::new() })
    }

    /// Latents as denoisers see them of an encoder's `moments` of so many pictures and standard normal `noise` (of the latents'
    /// length; empty: the means): `(mean + exp(clamp(logvar, -30, 20) / 2) noise - shift_factor) scaling_factor`.
    pub fn latents(&self, moments: &[f32], items: usize, noise: &[f32]) -> Vec<f32> {
        let of_latent = moments.len() / (2 * items.max(1));
        let mut latents = Vec::with_capacity(moments.len() / 2);
        for moments in moments.chunks_exact((2 * of_latent).max(1)) {
            for (mean, logvar) in moments[..of_latent].iter().zip(&moments[of_latent..]) {
                let noise = noise.get(latents.len()).copied().unwrap_or(0.0);
                let value = f64::from(*mean) + (f64::from(logvar.clamp(-30.0, 20.0)) / 2.0).exp() * f64::from(noise);
                latents.push(((value - self.shift_factor) * self.scaling_factor) as f32);
            }
        }
        latents
    }
}

/// A half on its way.
struct Builder {
    plan: Plan,
    groups: usize,
}

impl Builder {
    /// GroupNorm and SiLU.
    fn norm(&mut self, name: &str, x: TensorId) -> TensorId {
        let normed = self.plan.group_norm(name, x, self.groups, EPS);
        self.plan.activate("", Activation::Silu, normed)
    }

    /// One of those between the first and the last, which may be computed in integers; those two are few operations, and what
    /// they lose is seen in every pixel.
    fn convolution(&mut self, name: &str, x: TensorId, window: Window, out: usize) -> TensorId {
        let out = self.plan.convolution(name, x, window, out, true);
        // 8 bits leave 35 dB of the avatars' pictures, 12 as much as q8 itself does (48 dB).
        self.plan.allow(name, Precision::Wide);
        out
    }

    /// `shortcut(x) + conv2(silu(norm2 conv1(silu(norm1 x))))`.
    fn residual(&mut self, name: &str, x: TensorId, size: [usize; 2], out: usize) -> TensorId {
        let window = Window::plain(size);
        let normed = self.norm(&format!("{name}.norm1"), x);
        let inner = self.convolution(&format!("{name}.conv1"), normed, window, out);
        let normed = self.norm(&format!("{name}.norm2"), inner);
        let inner = self.convolution(&format!("{name}.conv2"), normed, window, out);
        let shortcut = match self.plan.shape(x)[2] == out {
            true => x,
            false => self.plan.linear(&format!("{name}.conv_shortcut"), x, None, out, true),
        };
        self.plan.add(name, shortcut, inner)
    }

    /// A residual block, attention over all pixels by one head, another block.
    fn middle(&mut self, half: &str, x: TensorId, size: [usize; 2]) -> TensorId {
        let name = format!("{half}.mid_block");
        let shape = self.plan.shape(x).to_vec();
        let x = self.residual(&format!("{name}.resnets.0"), x, size, shape[2]);
        let attention = format!("{name}.attentions.0");
        let normed = self.plan.group_norm(&format!("{attention}.group_norm"), x, self.groups, EPS);
        let qkv = self.plan.linear(&format!("{attention}.to_{{q,k,v}}"), normed, None, 3 * shape[2], true);
        let attended = self.plan.scratch("", &shape);
        self.plan.push(Op::Attention { qkv, heads: 1, causal: false, out: attended });
        let projected = self.plan.linear(&format!("{attention}.to_out.0"), attended, None, shape[2], true);
        let x = self.plan.add(attention, x, projected);
        self.residual(&format!("{name}.resnets.1"), x, size, shape[2])
    }
}
