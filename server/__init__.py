"""The federation's server: adds up noised sums, steps the adapter, hands back the better one."""
