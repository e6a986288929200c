"""The network family of MASt3R and DUSt3R."""
