kvtier_guest::export!();

fn main() {}
