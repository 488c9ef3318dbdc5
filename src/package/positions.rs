//! How much of a large table of positions a package keeps. Stable Diffusion 3's is one of 192 x 192 places, 3.5's of 384 x 384, of which
//! a picture gets the middle: in f32 226 and 906 MB, more than a binding of WebGPU's default size holds, and mostly for pictures that
//! nobody draws.

use crate::json::Value;

/// Rows and columns of it that are kept: those of pictures of 1536 x 1536, in 57 MB.
const KEPT: u64 = 96;

/// The parameters of a network without the positions that are not kept.
pub(super) fn kept(architecture: &str, mut params: Value) -> Value {
    let number = |name: &str| params[name].as_u64().unwrap_or(0);
    let (side, drawn) = (number("pos_embed_max_size"), number("sample_size") / number("patch_size").max(1));
    let kept = KEPT.max(drawn);
    if architecture == "mmdit" && side > kept {
        // As many rows are left out below as above.
        params["pos_embed_max_size"] = (kept + (side - kept) % 2).into();
    }
    params
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::json;

    #[test]
    fn the_middle_of_a_table_is_kept() {
        let side = |side: u64, drawn: u64| {
            let params = json!({ "sample_size": drawn, "patch_size": 2, "pos_embed_max_size": side });
            kept("mmdit", params)["pos_embed_max_size"].as_u64()
        };
        assert_eq!((side(384, 128), side(192, 128), side(193, 128)), (Some(96), Some(96), Some(97)));
        assert_eq!((side(64, 128), side(192, 300), side(96, 128)), (Some(64), Some(150), Some(96)));
        let other = json!({ "pos_embed_max_size": 384 });
        assert_eq!(kept("dit", other.clone()), other);
    }
}
