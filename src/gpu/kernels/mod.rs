//! Each kernel's variants, parameters, bindings and dispatch shape: everything between a Program and its shader.
//! This is the one registry: [`launch`] names every kernel, [`variants`] every shader text that can be compiled.

mod attention;
mod cached_attention;
mod combine;
mod conv2d;
mod copy_tokens;
mod elementwise;
mod embedding;
mod group_norm;
mod head_norm;
mod image_tokens;
mod int_matmul;
mod layer_norm;
mod matmul;
mod patch_embed;
mod peak;
mod resized_positions;
mod unpatchify;
mod write_cache;

pub use attention::AttentionTile;
pub use combine::{COMBINED, MAX_COMBINE_TERMS, combine};
pub use matmul::MatmulTile;
pub use peak::{INVOCATIONS as PEAK_INVOCATIONS, peaks};

use super::backend::Adapter;
use super::pack::Storage;
use super::template::{Variables, expand};
use crate::Result;
use crate::json::{self, Fields, Read, Value, Write};
use crate::plan::{Arithmetic, Kernel, Position, Program, SizeClass, TensorId, WeightId};

/// Files of `shaders/` by name, without their comments, by `build.rs`.
macro_rules! shaders {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!(env!("OUT_DIR"), "/shaders/", $name, ".wgsl")))),*]
    };
}

/// Every kernel's.
const SHADERS: &[(&str, &str)] = shaders! {
    "attention" "cached_attention" "combine" "conv2d" "copy_tokens" "elementwise" "embedding" "group_moments" "group_norm"
    "group_scales" "head_norm" "image_tokens" "int_matmul" "layer_norm" "matmul" "patch_embed" "peak" "resized_positions" "unpatchify"
    "write_cache"
};

/// All shaders' text, to tell one version from another.
pub fn sources() -> String {
    SHADERS.iter().map(|&(_, source)| source).collect()
}

/// One shader text: a file of `shaders/` and the values of its template's variables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Variant {
    /// The file's name without ending.
    pub kernel: &'static str,
    /// Template variables.
    pub variables: Variables,
}

impl Variant {
    /// The WGSL text.
    ///
    /// # Errors
    /// `INTERNAL` if the template is wrong.
    pub fn wgsl(&self) -> Result<String> {
        let (_, source) = (SHADERS.iter().find(|(name, _)| *name == self.kernel))
            .ok_or_else(|| crate::Error::internal(format!("there is no shader {}", self.kernel)))?;
        expand(source, &self.variables)
    }

    /// The kernel and its variables, for messages.
    pub fn label(&self) -> String {
        let values: Vec<String> = self.variables.iter().map(|(n, v)| format!("{n}={v}")).collect();
        format!("{} {}", self.kernel, values.join(" "))
    }
}

/// What a kernel binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// A tensor.
    Tensor(TensorId),
    /// A weight's values.
    Weight(WeightId),
    /// So many bytes of them, from an offset on.
    Rows(WeightId, usize, usize),
    /// A weight's scales.
    Scales(WeightId),
}

/// One launch: which shader, with which parameters, on what, how many workgroups.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Which shader.
    pub variant: Variant,
    /// The uniform block, binding 0.
    pub params: Vec<u8>,
    /// All other bindings.
    pub bindings: Vec<(u32, Binding)>,
    /// Workgroups in x, y, z.
    pub workgroups: [u32; 3],
}

/// How the weights of a model lie on the device.
pub trait WeightLayouts {
    /// (storage, vec4 columns a scale, scales a row).
    fn layout(&self, id: WeightId) -> (Storage, usize, usize);
}

/// Which of a kernel's variants suit an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Of attention.
    pub attention: AttentionTile,
    /// Of a matmul of many rows.
    pub matmul: MatmulTile,
    /// Of few.
    pub matmul_few: MatmulTile,
    /// Of one.
    pub matmul_one: MatmulTile,
}

impl Read for Tuning {
    fn read(value: &Value) -> json::Result<Tuning> {
        let fields = Fields::of(value)?;
        Ok(Tuning {
            attention: fields.required("attention")?,
            matmul: fields.required("matmul")?,
            matmul_few: fields.required("matmulFew")?,
            matmul_one: fields.required("matmulOne")?,
        })
    }
}

impl Write for Tuning {
    fn write(&self) -> Value {
        json::object([
            ("attention", self.attention.write()),
            ("matmul", self.matmul.write()),
            ("matmulFew", self.matmul_few.write()),
            ("matmulOne", self.matmul_one.write()),
        ])
    }
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning::GPU
    }
}

impl Tuning {
    /// Small tiles: registers are few where thousands of invocations share them.
    pub const GPU: Tuning = Tuning {
        attention: AttentionTile { queries: 2, keys4: 1, shared: false },
        matmul: MatmulTile::alone(8, 4),
        matmul_few: MatmulTile::alone(4, 2),
        matmul_one: MatmulTile::alone(2, 2),
    };
    /// Large tiles: on a processor registers are memory, and every load is a loop over the invocations. 66 tokens are 6 x 11.
    pub const SOFTWARE: Tuning = Tuning {
        attention: AttentionTile { queries: 9, keys4: 3, shared: false },
        matmul: MatmulTile::alone(11, 8),
        matmul_few: MatmulTile::alone(8, 4),
        matmul_one: MatmulTile::alone(2, 4),
    };

    /// With subgroups of four at least.
    pub const SOFTWARE_SUBGROUPS: Tuning = Tuning {
        attention: AttentionTile { queries: 6, keys4: 4, shared: true },
        matmul: MatmulTile::shared(11, 4, 4),
        ..Tuning::SOFTWARE
    };
    /// With workgroup memory, which pays where it is faster than the caches.
    pub const GPU_TILED: Tuning = Tuning {
        attention: AttentionTile { queries: 1, keys4: 1, shared: false },
        matmul: MatmulTile::tiled(4, 1, 16),
        ..Tuning::GPU
    };

    /// All of them.
    pub const ALL: [Tuning; 4] = [Tuning::GPU, Tuning::GPU_TILED, Tuning::SOFTWARE, Tuning::SOFTWARE_SUBGROUPS];

    /// Whether an adapter can run it.
    pub fn suits(&self, adapter: &Adapter) -> bool {
        self.fits(adapter.subgroup_size)
    }

    /// Whether it asks for no more than subgroups of so many invocations, and no more than the shaders' templates unroll.
    fn fits(&self, subgroup_size: u32) -> bool {
        let lanes = if self.attention.shared { self.attention.keys4 } else { 1 };
        self.matmul.lanes.max(lanes) <= subgroup_size as usize && self.matmul.is_unrolled()
    }

    /// What is worth measuring on an adapter, its default first.
    pub fn candidates(adapter: &Adapter) -> Vec<Tuning> {
        Tuning::candidates_of(adapter.is_fallback_adapter, adapter.subgroup_size)
    }

    /// Whatever any adapter may be asked to run.
    pub fn every() -> Vec<Tuning> {
        let mut all = Tuning::ALL.to_vec();
        for (is_software, subgroup_size) in [(true, 1), (true, 4), (true, 8), (false, 1), (false, 4), (false, 32)] {
            for tuning in Tuning::candidates_of(is_software, subgroup_size) {
                if !all.contains(&tuning) {
                    all.push(tuning);
                }
            }
        }
        all
    }

    fn candidates_of(is_software: bool, subgroup_size: u32) -> Vec<Tuning> {
        let first = Tuning::default_of(is_software, subgroup_size);
        let in_registers =
            [(11, 1, 8), (11, 1, 4), (11, 4, 4), (16, 8, 4), (12, 4, 4), (8, 1, 4), (8, 4, 4), (4, 1, 4), (4, 1, 2)]
                .map(|(rows, lanes, columns)| MatmulTile::shared(rows, lanes, columns));
        // A software adapter emulates barriers: four times slower, and long to compile.
        let tiled = [(4, 1, 16), (8, 2, 8), (4, 2, 16), (4, 1, 8), (8, 2, 16)]
            .map(|(rows, columns, tile)| MatmulTile::tiled(rows, columns, tile));
        let tiled = tiled.into_iter().filter(|_| !is_software);
        let matmuls = tiled.chain(in_registers);
        let attentions =
            [(6, 4, true), (9, 3, false), (6, 4, false), (2, 1, false), (4, 4, true), (4, 2, false), (1, 1, false)]
                .map(|(queries, keys4, shared)| AttentionTile { queries, keys4, shared })
                .into_iter()
                .filter(|attention| Tuning { attention: *attention, ..first }.fits(subgroup_size));
        let mut all = vec![first];
        let matmuls = matmuls.filter(|&matmul| matmul != first.matmul);
        let mut attentions = attentions.filter(|&attention| attention != first.attention);
        // Fewer candidates each: they come along with those of many rows, which take the time.
        let mut few = [(4, 4), (8, 2), (4, 2)].map(|(rows, columns)| MatmulTile::alone(rows, columns)).into_iter();
        let mut one = [(1, 4), (4, 2), (1, 1)].map(|(rows, columns)| MatmulTile::alone(rows, columns)).into_iter();
        for matmul in matmuls {
            let tuning = Tuning {
                matmul,
                attention: attentions.next().unwrap_or(first.attention),
                matmul_few: few.next().unwrap_or(first.matmul_few),
                matmul_one: one.next().unwrap_or(first.matmul_one),
            };
            if tuning.fits(subgroup_size) {
                all.push(tuning);
            }
        }
        all
    }

    /// Whether each of its tiles is some candidate's.
    pub fn is_of(&self, candidates: &[Tuning]) -> bool {
        candidates.iter().any(|c| c.attention == self.attention)
            && candidates.iter().any(|c| c.matmul == self.matmul)
            && candidates.iter().any(|c| c.matmul_few == self.matmul_few)
            && candidates.iter().any(|c| c.matmul_one == self.matmul_one)
    }

    /// The tile of a matmul.
    pub fn matmul_of(&self, size: SizeClass) -> MatmulTile {
        match size {
            SizeClass::One => self.matmul_one,
            SizeClass::Few => self.matmul_few,
            SizeClass::Many => self.matmul,
        }
    }

    /// Before anything was measured.
    pub fn of(adapter: &Adapter) -> Tuning {
        Tuning::default_of(adapter.is_fallback_adapter, adapter.subgroup_size)
    }

    fn default_of(is_software: bool, subgroup_size: u32) -> Tuning {
        match (is_software, subgroup_size) {
            (true, 4..) => Tuning::SOFTWARE_SUBGROUPS,
            (true, _) => Tuning::SOFTWARE,
            (false, _) => Tuning::GPU,
        }
    }
}

/// The launch of any kernel.
pub fn launch(kernel: &Kernel, program: &Program, weights: &dyn WeightLayouts, tuning: &Tuning) -> Launch {
    match kernel {
        Kernel::Matmul(k) if k.arithmetic == Arithmetic::W8A8 => int_matmul::launch(k, program, weights, tuning),
        Kernel::Matmul(k) => matmul::launch(k, weights, tuning),
        Kernel::LayerNorm(k) => layer_norm::launch(k, program),
        Kernel::Attention(k) => attention::launch(k, program, tuning.attention),
        Kernel::HeadNorm(k) => head_norm::launch(k),
        Kernel::WriteCache(k) => write_cache::launch(k),
        Kernel::CachedAttention(k) => cached_attention::launch(k),
        Kernel::Elementwise(k) => elementwise::launch(k, program),
        Kernel::Embedding(k) => embedding::launch(k),
        Kernel::CopyTokens(k) => copy_tokens::launch(k),
        Kernel::ResizedPositions(k) => resized_positions::launch(k),
        Kernel::PatchEmbed(k) => patch_embed::launch(k),
        Kernel::Unpatchify(k) => unpatchify::launch(k, program),
        Kernel::Conv2d(k) => conv2d::launch(k),
        Kernel::ImageTokens(k) => image_tokens::launch(k, program),
        Kernel::GroupMoments(k) => group_norm::launch_moments(k, program),
        Kernel::GroupScales(k) => group_norm::launch_scales(k, program),
        Kernel::GroupNorm(k) => group_norm::launch_norm(k, program),
    }
}

/// Every shader text that a launch can ask for with these tunings, those in f16 only if asked for; head dims by example.
pub fn variants(tunings: &[Tuning], shader_f16: bool) -> Vec<Variant> {
    let mut all = vec![
        combine::variant(),
        conv2d::variant(),
        head_norm::variant(),
        image_tokens::variant(),
        resized_positions::variant(),
        unpatchify::variant(),
        write_cache::variant(),
    ];
    for position in [false, true] {
        all.push(copy_tokens::variant(position));
        for with in [false, true] {
            all.extend([embedding::variant(with, position), patch_embed::variant(with, position)]);
        }
    }
    for tuning in tunings {
        all.extend(matmul::variants(tuning, false));
        if shader_f16 {
            all.extend(matmul::variants(tuning, true));
        }
        all.extend(int_matmul::variants(tuning));
        all.extend(attention::variants(tuning.attention));
    }
    all.extend(cached_attention::variants());
    all.extend(elementwise::variants());
    all.extend(group_norm::variants());
    all.extend(layer_norm::variants());
    all.extend(peak::variants());
    all.sort();
    all.dedup();
    all
}

/// Workgroups that cover `count` items, `each` a workgroup, in rows of at most [`ROW`]: one dimension alone may not hold
/// them all. The shader's item is `id.x + id.y * num_workgroups.x * each`.
fn folded(count: usize, each: usize) -> [u32; 3] {
    let needed = groups(count, each);
    [needed.min(ROW), needed.div_ceil(ROW), 1]
}

/// WebGPU's default `maxComputeWorkgroupsPerDimension`.
const ROW: u32 = 65535;

/// How `shaders/lib/position.wgsl` finds rows of positions.
fn position_rule(position: Option<Position>) -> [usize; 4] {
    position.map_or([0, 1, 0, 0], |p| [p.at, p.width, p.stride, p.inner])
}

/// A template's condition.
fn flag(is: bool) -> String {
    u8::from(is).to_string()
}

/// Workgroups that cover `count` items, `each` a workgroup.
fn groups(count: usize, each: usize) -> u32 {
    count.div_ceil(each) as u32
}
