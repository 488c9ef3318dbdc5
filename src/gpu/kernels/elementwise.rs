//! `shaders/elementwise.wgsl`; twin: `src/cpu/elementwise.rs`.

use super::{Binding, Launch, Variant, folded};
use crate::plan::{Activation, Elementwise, PACK_GROUP, Program};

const WORKGROUP: usize = 64;

/// All that `shaders/lib/activation.wgsl` has.
pub(super) const ACTIVATIONS: [Activation; 7] = [
    Activation::None,
    Activation::Gelu,
    Activation::Silu,
    Activation::QuickGelu,
    Activation::GeluTanh,
    Activation::Relu,
    Activation::Tanh,
];

/// The activation's name in `shaders/lib/activation.wgsl`.
pub(super) fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::None => "none",
        Activation::Gelu => "gelu",
        Activation::Silu => "silu",
        Activation::QuickGelu => "quick_gelu",
        Activation::GeluTanh => "gelu_tanh",
        Activation::Relu => "relu",
        Activation::Tanh => "tanh",
    }
}

fn variant(operands: usize, gate: bool, activation: Activation, packed: bool) -> Variant {
    Variant {
        kernel: "elementwise",
        variables: vec![
            ("OPERANDS", operands.to_string()),
            ("GATE", u8::from(gate).to_string()),
            ("ACTIVATION", activation_name(activation).into()),
            ("PACKED", u8::from(packed).to_string()),
            ("WORKGROUP", WORKGROUP.to_string()),
        ],
    }
}

pub(super) fn variants() -> impl Iterator<Item = Variant> {
    let kinds = [(1, false), (2, false), (1, true), (2, true)];
    let plain =
        ACTIVATIONS.into_iter().flat_map(move |a| kinds.map(|(operands, packed)| variant(operands, false, a, packed)));
    plain.chain([false, true].map(|packed| variant(2, true, Activation::None, packed)))
}

pub(super) fn launch(k: &Elementwise, program: &Program) -> Launch {
    let out = program.view(k.out);
    let groups = k.dim / PACK_GROUP;
    let count = if out.packed { k.rows * groups } else { (k.rows * out.row_stride).div_ceil(4) };
    // As bits.
    let mut params = vec![count as u32, groups as u32, k.scale.to_bits(), k.offset.to_bits()];
    let mut bindings = vec![(1, Binding::Tensor(k.a)), (2, Binding::Tensor(k.out))];
    bindings.extend(k.b.map(|b| (3, Binding::Tensor(b))));
    let operands = bindings.len() - 1;
    if let Some(gate) = k.gate {
        bindings.push((4, Binding::Tensor(gate.vector)));
        let of_gates = [k.dim.div_ceil(4), k.tokens, gate.at / 4, gate.channels.div_ceil(4)];
        params.extend(of_gates.map(|v| v as u32));
    }
    Launch {
        variant: variant(operands, k.gate.is_some(), k.activation, out.packed),
        params: bytemuck::cast_slice(&params).to_vec(),
        bindings,
        workgroups: folded(count, WORKGROUP),
    }
}
