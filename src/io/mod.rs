//! TUN, UDP and the threads of the shards: carries packets, decides nothing. The only `unsafe`.
