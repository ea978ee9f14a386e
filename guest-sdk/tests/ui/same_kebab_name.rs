struct KVStore;
struct KvStore;

kvtier_guest::export!(KVStore, KvStore);

fn main() {}
