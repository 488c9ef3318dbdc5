//! `shaders/elementwise.wgsl`; twin: `src/cpu/elementwise.rs`.

use super::{Binding, Launch, Variant, folded};
use crate::plan::{Activation, Elementwise, Program};

const WORKGROUP: usize = 64;

/// All that `shaders/lib/activation.wgsl` has.
pub(super) const ACTIVATIONS: [Activation; 3] = [Activation::None, Activation::Gelu, Activation::Silu];

/// The activation's name in `shaders/lib/activation.wgsl`.
pub(super) fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::None => "none",
        Activation::Gelu => "gelu",
        Activation::Silu => "silu",
    }
}

fn variant(operands: usize, activation: Activation) -> Variant {
    Variant {
        kernel: "elementwise",
        variables: vec![
            ("OPERANDS", operands.to_string()),
            ("ACTIVATION", activation_name(activation).into()),
            ("WORKGROUP", WORKGROUP.to_string()),
        ],
    }
}

pub(super) fn variants() -> impl Iterator<Item = Variant> {
    ACTIVATIONS.into_iter().flat_map(|activation| [1, 2].map(|operands| variant(operands, activation)))
}

pub(super) fn launch(k: &Elementwise, program: &Program) -> Launch {
    let count4 = program.view(k.out).bytes().div_ceil(16);
    let params = [count4 as u32, 0, 0, 0];
    let mut bindings = vec![(1, Binding::Tensor(k.a)), (2, Binding::Tensor(k.out))];
    bindings.extend(k.b.map(|b| (3, Binding::Tensor(b))));
    Launch {
        variant: variant(bindings.len() - 1, k.activation),
        params: bytemuck::cast_slice(&params).to_vec(),
        bindings,
        workgroups: folded(count4, WORKGROUP),
    }
}
