//! What a file leaves out because its library computes it.

/// How it is computed, from its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// Fixed sines and cosines of the places of a square, `[1, side^2, dim]`: `get_2d_sincos_pos_embed` in `models.py` of
    /// facebookresearch/DiT@ed81ce2229091fd4ecc9a223645f95cf379d582b.
    Positions,
    /// `[n, n]`.
    Identity,
}

impl Made {
    /// What is said of it.
    pub fn as_str(self) -> &'static str {
        match self {
            Made::Positions => "computed",
            Made::Identity => "taken for the identity",
        }
    }

    /// The values; none if it cannot have this shape.
    pub fn values(self, shape: &[usize]) -> Option<Vec<f32>> {
        match (self, shape) {
            (Made::Identity, &[rows, columns]) if rows == columns => {
                Some((0..rows * rows).map(|i| f32::from(i % (rows + 1) == 0)).collect())
            }
            (Made::Positions, &[1, places, dim]) if places.isqrt().pow(2) == places && dim.is_multiple_of(4) => {
                let (side, frequencies) = (places.isqrt(), dim / 4);
                let mut values = Vec::with_capacity(places * dim);
                for place in 0..places {
                    // The column goes first.
                    for coordinate in [place % side, place / side] {
                        let angle = |k: usize| coordinate as f64 / 10000f64.powf(k as f64 / frequencies as f64);
                        values.extend((0..frequencies).map(|k| angle(k).sin() as f32));
                        values.extend((0..frequencies).map(|k| angle(k).cos() as f32));
                    }
                }
                Some(values)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_sines_and_cosines_of_column_and_row() {
        let values = Made::Positions.values(&[1, 9, 8]).unwrap();
        assert_eq!(values.len(), 72);
        // Row 1, column 2.
        let angles = [2.0, 0.02].map(f64::sin).into_iter().chain([2.0, 0.02].map(f64::cos));
        let angles = angles.chain([1.0, 0.01].map(f64::sin)).chain([1.0, 0.01].map(f64::cos));
        let wanted: Vec<f32> = angles.map(|v| v as f32).collect();
        assert_eq!(values[5 * 8..6 * 8], wanted);
        assert_eq!(Made::Positions.values(&[1, 8, 8]), None);
        assert_eq!(Made::Identity.values(&[2, 2]), Some(vec![1.0, 0.0, 0.0, 1.0]));
        assert_eq!(Made::Identity.values(&[2, 3]), None);
    }
}
