struct Log_Backend;

kvtier_guest::export!(Log_Backend);

fn main() {}
