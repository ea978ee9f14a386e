struct Error;

kvtier_guest::export!(Error);

fn main() {}
