struct logBackend;

kvtier_guest::export!(logBackend);

fn main() {}
