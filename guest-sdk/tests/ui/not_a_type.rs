kvtier_guest::export!("LogBackend");

fn main() {}
