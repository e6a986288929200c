"""Textures on the GPU (Triton): trilinear lookup and the normals of surfaces with relief.

The twin of `matching.training.textures` and of `matching.training.light.relief_normal`.
"""

import triton
import triton.language as tl


@triton.jit
def _bilinear(texels, index, u, v, level, size0, count):  # type: ignore[no-untyped-def]
    size = size0 >> level
    base = count * ((size0 * size0 - size * size) * 4 // 3) + index * size * size
    x = u * size.to(tl.float32) - 0.5
    y = v * size.to(tl.float32) - 0.5
    x0, y0 = tl.floor(x), tl.floor(y)
    fx, fy = x - x0, y - y0
    xi, yi = x0.to(tl.int32), y0.to(tl.int32)
    xa, xb = xi & (size - 1), (xi + 1) & (size - 1)
    ya, yb = base + (yi & (size - 1)) * size, base + ((yi + 1) & (size - 1)) * size
    t00, t01 = tl.load(texels + ya + xa), tl.load(texels + ya + xb)
    t10, t11 = tl.load(texels + yb + xa), tl.load(texels + yb + xb)
    w00, w01 = (1 - fx) * (1 - fy) * (1.0 / 255.0), fx * (1 - fy) * (1.0 / 255.0)
    w10, w11 = (1 - fx) * fy * (1.0 / 255.0), fx * fy * (1.0 / 255.0)
    r = (t00 & 255).to(tl.float32) * w00 + (t01 & 255).to(tl.float32) * w01
    r += (t10 & 255).to(tl.float32) * w10 + (t11 & 255).to(tl.float32) * w11
    g00, g01 = ((t00 >> 8) & 255).to(tl.float32), ((t01 >> 8) & 255).to(tl.float32)
    g10, g11 = ((t10 >> 8) & 255).to(tl.float32), ((t11 >> 8) & 255).to(tl.float32)
    g = g00 * w00 + g01 * w01 + g10 * w10 + g11 * w11
    b = ((t00 >> 16) & 255).to(tl.float32) * w00 + ((t01 >> 16) & 255).to(tl.float32) * w01
    b += ((t10 >> 16) & 255).to(tl.float32) * w10 + ((t11 >> 16) & 255).to(tl.float32) * w11
    step = size.to(tl.float32) * (1.0 / 255.0)
    du = ((g01 - g00) * (1 - fy) + (g11 - g10) * fy) * step
    dv = ((g10 - g00) * (1 - fx) + (g11 - g01) * fx) * step
    return r, g, b, du, dv


@triton.jit
def sample_texture(texels, index, u, v, lod, size, count, levels):  # type: ignore[no-untyped-def]
    """TextureBank.sample and, of the texels it loads anyway, TextureBank.slope."""
    lod = tl.minimum(tl.maximum(lod, 0.0), levels - 1.001)
    fine = tl.floor(lod)
    weight = lod - fine
    u, v = u - tl.floor(u), v - tl.floor(v)
    level = fine.to(tl.int32)
    r0, g0, b0, du0, dv0 = _bilinear(texels, index, u, v, level, size, count)
    r1, g1, b1, du1, dv1 = _bilinear(texels, index, u, v, level + 1, size, count)
    r, g, b = r0 + (r1 - r0) * weight, g0 + (g1 - g0) * weight, b0 + (b1 - b0) * weight
    return r * r, g * g, b * b, du0 + (du1 - du0) * weight, dv0 + (dv1 - dv0) * weight


@triton.jit
def relief_normal(nx, ny, nz, slope_u, slope_v):  # type: ignore[no-untyped-def]
    """light.relief_normal."""
    du = tl.minimum(tl.maximum(slope_u, -1.5), 1.5)
    dv = tl.minimum(tl.maximum(slope_v, -1.5), 1.5)
    level = tl.abs(nz) > 0.75
    tx = tl.where(level, 1 - nx * nx, -ny)
    ty = tl.where(level, -nx * ny, nx)
    tz = tl.where(level, -nx * nz, 0.0)
    inverse = tl.rsqrt(tl.maximum(tx * tx + ty * ty + tz * tz, 1e-12))
    tx, ty, tz = tx * inverse, ty * inverse, tz * inverse
    bx, by, bz = ty * nz - tz * ny, tz * nx - tx * nz, tx * ny - ty * nx
    inverse = tl.rsqrt(1 + du * du + dv * dv)
    return (
        (nx - du * tx - dv * bx) * inverse,
        (ny - du * ty - dv * by) * inverse,
        (nz - du * tz - dv * bz) * inverse,
    )
