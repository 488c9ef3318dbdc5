// Template: ACTIVATION none | gelu (exact, erf) | silu | quick_gelu | gelu_tanh | relu | tanh.

//#if ACTIVATION == none
fn activate(x: vec4f) -> vec4f {
  return x;
}
//#end
//#if ACTIVATION == gelu
// erf by the rational approximation of Eigen (MathFunctionsImpl.h, generic_fast_erf_float, 3.4), |error| < 4e-7.
fn erf(a: vec4f) -> vec4f {
  let x = clamp(a, vec4f(-4.0), vec4f(4.0));
  let x2 = x * x;
  var p = vec4f(-2.72614225801306e-10) * x2 + 2.77068142495902e-08;
  p = p * x2 - 2.10102402082508e-06;
  p = p * x2 - 5.69250639462346e-05;
  p = p * x2 - 7.34990630326855e-04;
  p = p * x2 - 2.95459980854025e-03;
  p = p * x2 - 1.60960333262415e-02;
  var q = vec4f(-1.45660718464996e-05) * x2 - 2.13374055278905e-04;
  q = q * x2 - 1.68282697438203e-03;
  q = q * x2 - 7.37332916720468e-03;
  q = q * x2 - 1.42647390514189e-02;
  return x * p / q;
}

fn activate(x: vec4f) -> vec4f {
  return 0.5 * x * (1.0 + erf(x * 0.70710678118654752));
}
//#end
//#if ACTIVATION == silu
fn activate(x: vec4f) -> vec4f {
  return x / (1.0 + exp(-x));
}
//#end
//#if ACTIVATION == quick_gelu
fn activate(x: vec4f) -> vec4f {
  return x / (1.0 + exp(-1.702 * x));
}
//#end
//#if ACTIVATION == gelu_tanh
// x/2 (1 + tanh(y)) is x times the logistic function of 2 y, which no large y makes NaN.
fn activate(x: vec4f) -> vec4f {
  return x / (1.0 + exp(-1.5957691216 * (x + 0.044715 * x * x * x)));
}
//#end
//#if ACTIVATION == relu
fn activate(x: vec4f) -> vec4f {
  return max(x, vec4f());
}
//#end
//#if ACTIVATION == tanh
// As a logistic function, which no large x makes NaN.
fn activate(x: vec4f) -> vec4f {
  return 1.0 - 2.0 / (1.0 + exp(2.0 * x));
}
//#end
