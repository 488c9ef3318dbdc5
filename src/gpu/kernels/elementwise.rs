//! `shaders/elementwise.wgsl`; twin: `src/cpu/elementwise.rs`.

use super::{Binding, Launch, Variant, folded};
use crate::plan::{Activation, Elementwise, Program};

const WORKGROUP: usize = 64;

/// The activation's number in `shaders/lib/activation.wgsl`.
pub(super) fn activation_number(activation: Activation) -> u32 {
    match activation {
        Activation::None => 0,
        Activation::Gelu => 1,
        Activation::Silu => 2,
    }
}

pub(super) fn variant(operands: usize) -> Variant {
    Variant {
        kernel: "elementwise",
        variables: vec![("OPERANDS", operands.to_string()), ("WORKGROUP", WORKGROUP.to_string())],
    }
}

pub(super) fn launch(k: &Elementwise, program: &Program) -> Launch {
    let count4 = program.view(k.out).bytes().div_ceil(16);
    let params = [count4 as u32, activation_number(k.activation), 0, 0];
    let mut bindings = vec![(1, Binding::Tensor(k.a)), (2, Binding::Tensor(k.out))];
    bindings.extend(k.b.map(|b| (3, Binding::Tensor(b))));
    Launch {
        variant: variant(bindings.len() - 1),
        params: bytemuck::cast_slice(&params).to_vec(),
        bindings,
        workgroups: folded(count4, WORKGROUP),
    }
}
