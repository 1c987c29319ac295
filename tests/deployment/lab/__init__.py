"""What the tests of deployments stand on: network namespaces, processes, houses, a federation."""
