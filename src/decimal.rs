//! Floats in texts. In the browser its own engine writes them: the standard library's way, which every `{}` of an f64 or f32
//! brings along, is 5 kB more for a page to load.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen::prelude::*;

#[cfg(target_arch = "wasm32")]
#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = String)]
    fn string(number: f64) -> String;
}

/// In plain decimals, as few as read back the same; whole numbers without a point.
pub fn decimal(number: f64) -> String {
    #[cfg(target_arch = "wasm32")]
    return plain(string(number));
    #[cfg(not(target_arch = "wasm32"))]
    number.to_string()
}

/// As `1.5e-7`.
pub fn exponential(number: f64) -> String {
    #[cfg(target_arch = "wasm32")]
    return js_sys::Number::from(number).to_exponential(1).map(String::from).unwrap_or_default();
    #[cfg(not(target_arch = "wasm32"))]
    format!("{number:.1e}")
}

/// JavaScript's text of a number that is very large or small, such as `1.5e-7`, without the exponent.
#[cfg(any(test, target_arch = "wasm32"))]
fn plain(text: String) -> String {
    let Some((figures, exponent)) = text.split_once('e') else { return text };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let (mut plain, mut digits) = (String::new(), String::new());
    for c in figures.chars() {
        match c {
            '-' => plain.push(c),
            '.' => {}
            digit => digits.push(digit),
        }
    }
    if exponent < 0 {
        plain.push_str("0.");
        for _ in 1..-exponent {
            plain.push('0');
        }
        return plain + &digits;
    }
    plain.push_str(&digits);
    for _ in digits.len()..=exponent as usize {
        plain.push('0');
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_javascript_lose_their_exponents() {
        let texts = [
            ("0.5", 0.5),
            ("1e-7", 1e-7),
            ("-1.25e-10", -1.25e-10),
            ("1.5e+21", 1.5e21),
            ("-3e+300", -3e300),
            ("7", 7.0),
        ];
        for (text, number) in texts {
            assert_eq!(plain(text.into()), decimal(number));
        }
        assert_eq!(exponential(-123_456.0), "-1.2e5");
    }
}
