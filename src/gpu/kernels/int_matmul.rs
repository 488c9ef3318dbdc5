//! `shaders/int_matmul.wgsl`; twin: `w8a8_matmul` in `src/cpu/int_matmul.rs`.

use super::elementwise::{ACTIVATIONS, activation_name};
use super::matmul::of_items;
use super::{Binding, Launch, Tuning, Variant, WeightLayouts, groups};
use crate::gpu::pack::Storage;
use crate::plan::{Activation, Matmul, PACK_GROUP, Program, SizeClass};

const WORKGROUP: usize = 16;
/// vec4 columns of one invocation: as many as share a scale where the result is quantised.
const COLUMNS: usize = PACK_GROUP / 4;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    n4: u32,
    k16: u32,
    group16: u32,
    groups: u32,
    items: [u32; 7],
}

/// What a shader is compiled for.
#[derive(Clone, Copy)]
struct Kind {
    storage: Storage,
    grouped: bool,
    bias: bool,
    activation: Activation,
    residual: bool,
    gate: bool,
    span: bool,
    packed: bool,
}

fn variant(kind: Kind, rows: usize) -> Variant {
    let flag = |is: bool| u8::from(is).to_string();
    Variant {
        kernel: "int_matmul",
        variables: vec![
            ("WEIGHTS", kind.storage.name().into()),
            ("GROUPED", flag(kind.grouped)),
            ("BIAS", flag(kind.bias)),
            ("ACTIVATION", activation_name(kind.activation).into()),
            ("RESIDUAL", flag(kind.residual)),
            ("GATE", flag(kind.gate)),
            ("SPAN", flag(kind.span)),
            ("PACKED", flag(kind.packed)),
            ("ROWS", rows.to_string()),
            ("COLUMNS", COLUMNS.to_string()),
            ("WORKGROUP", WORKGROUP.to_string()),
        ],
    }
}

pub(super) fn variants(tuning: &Tuning) -> Vec<Variant> {
    let mut all = Vec::new();
    for (storage, grouped) in [(Storage::Q8Dot, false), (Storage::Q8Dot, true), (Storage::Q4Dot, true)] {
        for activation in ACTIVATIONS {
            for [residual, gate, packed] in
                [[false; 3], [true, false, false], [true, true, false], [false, false, true]]
            {
                for [bias, span] in [[false, false], [true, false], [false, true], [true, true]] {
                    if (gate || span) && activation != Activation::None {
                        continue;
                    }
                    let kind = Kind { storage, grouped, bias, activation, residual, gate, span, packed };
                    all.extend(SizeClass::ALL.map(|size| variant(kind, tuning.matmul_of(size).rows)));
                }
            }
        }
    }
    all
}

pub(super) fn launch(m: &Matmul, program: &Program, weights: &dyn WeightLayouts, tuning: &Tuning) -> Launch {
    let (storage, group4, scale_groups) = weights.layout(m.weight);
    let kind = Kind {
        storage,
        grouped: scale_groups > 1 || storage == Storage::Q4Dot,
        bias: m.bias.is_some(),
        activation: m.activation,
        residual: m.residual.is_some(),
        gate: m.gate.is_some(),
        span: m.span.is_some(),
        packed: program.view(m.out).packed,
    };
    let rows = tuning.matmul_of(m.size).rows;
    let n4 = m.n.div_ceil(4);
    let params = Params {
        rows: m.rows as u32,
        n4: n4 as u32,
        k16: (m.k / PACK_GROUP) as u32,
        group16: (4 * group4 / PACK_GROUP) as u32,
        groups: scale_groups as u32,
        items: of_items(m),
    };
    let mut bindings = vec![
        (1, Binding::Tensor(m.x)),
        (2, Binding::Weight(m.weight)),
        (3, Binding::Scales(m.weight)),
        (6, Binding::Tensor(m.out)),
    ];
    bindings.extend(m.bias.map(|bias| (4, Binding::Weight(bias))));
    bindings.extend(m.residual.map(|residual| (5, Binding::Tensor(residual))));
    bindings.extend(m.gate.map(|gate| (8, Binding::Tensor(gate.vector))));
    Launch {
        variant: variant(kind, rows),
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings,
        workgroups: [groups(n4, COLUMNS * WORKGROUP), groups(m.rows, rows), 1],
    }
}
