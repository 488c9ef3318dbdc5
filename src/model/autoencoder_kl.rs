//! The autoencoder of latent diffusion (Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR
//! 2022), the two halves as networks of their own: who only draws needs no encoder. Follows `AutoencoderKL` of
//! huggingface/diffusers 0.42.1 (`models/autoencoders/autoencoder_kl.py`, `vae.py`), tensor names included; the original of
//! CompVis and that of U-ViT (`libs/autoencoder.py`) are the same under other names.

use super::transformer::{unsupported, within};
use super::{Batch, Port, PortKind, Recording};
use crate::Result;
use crate::decimal::decimal;
use crate::json::{self, Fields, Read, Value};
use crate::plan::{Activation, Groups, MOST_SLICES, Moments, Op, Plan, Precision, Role, TensorId, Window};
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

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
        let mut b = Builder::new(self.norm_num_groups, batch.tiled);
        let z = b.plan.tensor("z", &[items, self.latent_channels, height, width], Role::Input);
        let unscaled = b.plan.affine(z, (1.0 / self.scaling_factor) as f32, self.shift_factor as f32);
        let mut x = b.plan.image_tokens(unscaled);
        if self.use_post_quant_conv {
            x = b.plan.linear("post_quant_conv", x, None, self.latent_channels, true);
        }
        let mut channels = self.block_out_channels.iter().rev().copied();
        let deepest = channels.next().unwrap_or(4);
        let mut x = Image::whole([height, width], self.latent_channels, x);
        x = b.border("decoder.conv_in", x, None, deepest);
        x = b.middle("decoder", x);
        for (i, out) in [deepest].into_iter().chain(channels).enumerate() {
            let name = format!("decoder.up_blocks.{i}");
            for j in 0..=self.layers_per_block {
                x = b.residual(&format!("{name}.resnets.{j}"), &x, out);
            }
            if i + 1 < self.block_out_channels.len() {
                x = b.convolution(&format!("{name}.upsamplers.0.conv"), x.clone(), Window::upsampled(x.size), out);
            }
        }
        let norm = b.norm("decoder.conv_norm_out", &x);
        let x = b.border("decoder.conv_out", x, Some(norm), self.out_channels);
        let (size, x) = (x.size, b.rows(&x, 0..x.size[0]));
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
        let size = batch.size.unwrap_or([self.sample_size; 2]);
        self.validate(size)?;
        let mut b = Builder::new(self.norm_num_groups, batch.tiled);
        let image = b.plan.tensor("image", &[batch.items(), self.in_channels, size[0], size[1]], Role::Input);
        let mut x = Image::whole(size, self.in_channels, b.plan.image_tokens(image));
        x = b.border("encoder.conv_in", x, None, self.first_channels());
        for (i, &out) in self.block_out_channels.iter().enumerate() {
            let name = format!("encoder.down_blocks.{i}");
            for j in 0..self.layers_per_block {
                x = b.residual(&format!("{name}.resnets.{j}"), &x, out);
            }
            if i + 1 < self.block_out_channels.len() {
                x = b.convolution(&format!("{name}.downsamplers.0.conv"), x.clone(), Window::strided(x.size, 0), out);
            }
        }
        x = b.middle("encoder", x);
        let norm = b.norm("encoder.conv_norm_out", &x);
        let x = b.border("encoder.conv_out", x, Some(norm), 2 * self.latent_channels);
        let (size, mut x) = (x.size, b.rows(&x, 0..x.size[0]));
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

/// An image inside a half: tokens `[items, height width, channels]`, or how rows of them are computed.
#[derive(Clone)]
struct Image {
    size: [usize; 2],
    channels: usize,
    content: Content,
}

#[derive(Clone)]
enum Content {
    /// Bands of so many rows, the last perhaps of fewer.
    Kept(usize, Vec<TensorId>),
    /// Too large to be kept.
    Computed(Rc<Convolution>),
}

impl Image {
    fn whole(size: [usize; 2], channels: usize, x: TensorId) -> Image {
        Image { size, channels, content: Content::Kept(size[0], vec![x]) }
    }
}

/// A convolution, of `silu(norm(x))` if there is a norm.
struct Convolution {
    name: String,
    x: Image,
    norm: Option<Norm>,
    window: Window,
    out: usize,
    precision: Precision,
    /// The rows of its result that were computed last.
    last: RefCell<Option<(Range<usize>, TensorId)>>,
}

/// A GroupNorm whose moments are known.
struct Norm {
    name: String,
    moments: Moments,
}

/// A half on its way.
///
/// Images are kept whole, each computed once, unless they are larger than a limit. Larger ones lie in bands if they are sums, which
/// others are added to; convolutions' results are computed when rows of them are needed, with the rows beyond that their windows
/// see: once for their moments, and once for what is made of them. So a tiled autoencoder has no seams: it computes what a whole one
/// does.
struct Builder {
    plan: Plan,
    groups: usize,
    most: Option<usize>,
}

impl Builder {
    fn new(groups: usize, most: Option<usize>) -> Builder {
        Builder { plan: Plan::default(), groups, most }
    }

    /// Whether an image may be kept whole.
    fn fits(&self, [height, width]: [usize; 2], channels: usize) -> bool {
        self.most.is_none_or(|most| height * width * channels * 4 <= most)
    }

    /// Rows of a slice and of a band of an image, where what it is made of has so many channels a pixel too.
    fn band(&self, [height, width]: [usize; 2], channels: usize) -> [usize; 2] {
        let slice = height.div_ceil(MOST_SLICES);
        let most = self.most.unwrap_or(usize::MAX) / BANDS / (width * channels * 4);
        [slice, (most / slice * slice).clamp(slice, height)]
    }

    /// Some rows of an image, as tokens.
    fn rows(&mut self, image: &Image, rows: Range<usize>) -> TensorId {
        match &image.content {
            Content::Kept(of_band, bands) => {
                let parts: Vec<(TensorId, Range<usize>)> =
                    bands.iter().enumerate().map(|(i, &band)| (band, i * of_band..(i + 1) * of_band)).collect();
                self.joined(image, &parts, rows)
            }
            Content::Computed(convolution) => {
                let last = convolution.last.borrow().clone();
                if let Some((of, x)) = last.filter(|(of, _)| of.start <= rows.start && rows.end <= of.end) {
                    return self.joined(image, &[(x, of)], rows);
                }
                let x = self.convolve(convolution, rows.clone());
                *convolution.last.borrow_mut() = Some((rows, x));
                x
            }
        }
    }

    /// Rows of an image, of which these are parts.
    fn joined(&mut self, image: &Image, parts: &[(TensorId, Range<usize>)], rows: Range<usize>) -> TensorId {
        let [height, width] = image.size;
        let mut out = None;
        for (x, of) in parts {
            let (from, to) = (rows.start.max(of.start), rows.end.min(of.end));
            if from >= to {
                continue;
            }
            if *of == rows || (of.start == rows.start && rows.end == height && of.end >= height) {
                return *x;
            }
            let items = self.plan.shape(*x)[0];
            let out = *out.get_or_insert_with(|| self.plan.scratch("", &[items, rows.len() * width, image.channels]));
            let [at, first, count] = [from - rows.start, from - of.start, to - from].map(|rows| rows * width);
            self.plan.push(Op::CopyTokens { x: *x, from: first, count, position: None, out, at });
        }
        out.unwrap_or(parts[0].0)
    }

    /// Some rows of a convolution's result.
    fn convolve(&mut self, c: &Convolution, rows: Range<usize>) -> TensorId {
        let (seen, window) = c.window.of_rows(rows);
        let mut x = self.rows(&c.x, seen);
        if let Some(norm) = &c.norm {
            x = self.plan.group_norm(&norm.name, x, norm.moments, self.groups, EPS);
            x = self.plan.activate("", Activation::Silu, x);
        }
        let out = self.plan.convolution(&c.name, x, window, c.out, true);
        self.plan.allow(&c.name, c.precision);
        out
    }

    /// An image that is kept, in bands if it is too large, or what it is made of.
    fn kept(
        &mut self,
        size: [usize; 2],
        channels: usize,
        of: usize,
        make: &mut dyn FnMut(&mut Builder, Range<usize>) -> TensorId,
    ) -> Image {
        let most = channels.max(of);
        let of_band = if self.fits(size, most) { size[0] } else { self.band(size, most)[1] };
        let firsts = (0..size[0]).step_by(of_band);
        let bands = firsts.map(|first| make(self, first..size[0].min(first + of_band))).collect();
        Image { size, channels, content: Content::Kept(of_band, bands) }
    }

    fn convolved(
        &mut self,
        name: &str,
        x: Image,
        norm: Option<Norm>,
        window: Window,
        out: usize,
        precision: Precision,
    ) -> Image {
        let size = [window.out_height, window.out_width];
        // Of one row, that of all that it sees.
        let of = (x.size[0] * x.size[1] * x.channels).div_ceil(size[0] * size[1]);
        let (name, last) = (name.to_owned(), RefCell::default());
        let convolution = Convolution { name, x, norm, window, out, precision, last };
        match self.fits(size, out) {
            true => self.kept(size, out, of, &mut |b, rows| b.convolve(&convolution, rows)),
            false => Image { size, channels: out, content: Content::Computed(Rc::new(convolution)) },
        }
    }

    /// The first or the last one: few operations, and what they would lose in integers is seen in every pixel.
    fn border(&mut self, name: &str, x: Image, norm: Option<Norm>, out: usize) -> Image {
        let window = Window::plain(x.size);
        self.convolved(name, x, norm, window, out, Precision::Float)
    }

    /// One between them: 8 bits leave 35 dB of the avatars' pictures, 12 as much as q8 itself does (48 dB).
    fn convolution(&mut self, name: &str, x: Image, window: Window, out: usize) -> Image {
        self.convolved(name, x, None, window, out, Precision::Wide)
    }

    /// A norm over an image.
    fn norm(&mut self, name: &str, x: &Image) -> Norm {
        let [height, width] = x.size;
        let moments = match &x.content {
            Content::Kept(_, bands) if bands.len() == 1 => self.plan.moments(bands[0]),
            content => {
                let [of_slice, mut of_band] = self.band(x.size, x.channels);
                if let Content::Kept(of_kept, _) = content {
                    of_band = *of_kept;
                }
                let mut moments: Option<Moments> = None;
                for first in (0..height).step_by(of_band) {
                    let rows = self.rows(x, first..height.min(first + of_band));
                    let all = moments.unwrap_or_else(|| self.plan.no_moments(rows, height * width, of_slice * width));
                    let (slice, out, first) = (all.slice, all.tensor, first / of_slice);
                    self.plan.push(Op::GroupMoments { x: rows, slice, first, out });
                    moments = Some(all);
                }
                moments.unwrap_or_else(|| unreachable!("an image has rows"))
            }
        };
        Norm { name: name.to_owned(), moments }
    }

    /// `shortcut(x) + conv2(silu(norm2 conv1(silu(norm1 x))))`.
    fn residual(&mut self, name: &str, x: &Image, out: usize) -> Image {
        let norm = self.norm(&format!("{name}.norm1"), x);
        let (conv1, window) = (format!("{name}.conv1"), Window::plain(x.size));
        let inner = self.convolved(&conv1, x.clone(), Some(norm), window, out, Precision::Wide);
        let norm = Some(self.norm(&format!("{name}.norm2"), &inner));
        let (conv2, last, precision) = (format!("{name}.conv2"), RefCell::default(), Precision::Wide);
        let second = Convolution { name: conv2, x: inner, norm, window, out, precision, last };
        self.kept(x.size, out, x.channels, &mut |b, rows| {
            let inner = b.convolve(&second, rows.clone());
            let mut shortcut = b.rows(x, rows);
            if x.channels != out {
                shortcut = b.plan.linear(&format!("{name}.conv_shortcut"), shortcut, None, out, true);
            }
            b.plan.add(name, shortcut, inner)
        })
    }

    /// A residual block, attention over all pixels by one head, another block.
    fn middle(&mut self, half: &str, x: Image) -> Image {
        let name = format!("{half}.mid_block");
        let Image { size, channels, .. } = x;
        let image = self.residual(&format!("{name}.resnets.0"), &x, channels);
        let x = self.rows(&image, 0..size[0]);
        let attention = format!("{name}.attentions.0");
        let moments = self.plan.moments(x);
        let normed = self.plan.group_norm(&format!("{attention}.group_norm"), x, moments, self.groups, EPS);
        let qkv = self.plan.linear(&format!("{attention}.to_{{q,k,v}}"), normed, None, 3 * channels, true);
        let shape = self.plan.shape(x).to_vec();
        let attended = self.plan.scratch("", &shape);
        self.plan.push(Op::Attention { qkv, heads: 1, causal: false, groups: Groups::Item, out: attended });
        let projected = self.plan.linear(&format!("{attention}.to_out.0"), attended, None, channels, true);
        let x = self.plan.add(attention, x, projected);
        self.residual(&format!("{name}.resnets.1"), &Image::whole(size, channels, x), channels)
    }
}

/// Bands of the largest image that is kept whole.
const BANDS: usize = 8;
