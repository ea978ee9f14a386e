struct Generic<T>(T);

kvtier_guest::export!(Generic<u8>);

fn main() {}
