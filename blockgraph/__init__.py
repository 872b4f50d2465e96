"""A Transformer block as one YAML graph: checked, drawn, compiled, trained."""
