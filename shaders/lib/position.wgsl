// The row of a table of positions that a token takes: of runs of rule.y tokens the first begins at row rule.x, the next rule.z rows
// further, and inside of one it is rule.w rows from token to token.
fn position_row(rule: vec4u, token: u32) -> u32 {
  return rule.x + token / rule.y * rule.z + token % rule.y * rule.w;
}
