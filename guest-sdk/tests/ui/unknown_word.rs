struct LogBackend;

kvtier_guest::export!(async LogBackend);

fn main() {}
