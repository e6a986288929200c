"""Painters of procedural textures: walls, floors, things, pictures, cloth."""

import math

import torch


class Painter:
    """Makes textures of one size; all draws come from one generator.

    Every style is a method that returns linear albedo, (3, S, S), now and then a little outside of
    [0, 1] (`textures.paint` clamps it), and seamless: pictures, pages, windows and books, which
    have an edge, too, but for that edge.
    """

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size = size
        self.generator = generator

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """One random number."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def integer(self, low: int, high: int) -> int:
        """One random integer in [low, high)."""
        return int(torch.randint(low, high, (), generator=self.generator))

    def color(self, low: float = 0.05, high: float = 0.8, chroma: float = 0.35) -> torch.Tensor:
        """A random colour, (3, 1, 1): mostly the earthy hues of buildings, at times any hue."""
        return self.colors(1, low, high, chroma)[0]

    def colors(self, count: int, low: float, high: float, chroma: float) -> torch.Tensor:
        """`color`, several at once, (count, 3, 1, 1)."""
        value, warm, hue, saturation = torch.rand(4, count, 1, generator=self.generator)
        hue = torch.where(warm < 0.7, 0.02 + 0.11 * hue, hue)
        saturation = (chroma * 1.6 * saturation**0.7).clamp_max(0.9)
        wheel = (torch.tensor([0.0, 4.0, 2.0]) + hue * 6) % 6
        pure = ((wheel - 3).abs() - 1).clamp(0, 1)
        value = low + (high - low) * value
        return (value * (1 - saturation * (1 - pure))).reshape(count, 3, 1, 1)

    def noise(self, slope: float, lowest: float = 1.0) -> torch.Tensor:
        """Gaussian noise with spectrum 1 / f^slope above a lowest frequency, (S, S), unit std."""
        white = torch.randn(self.size, self.size, generator=self.generator)
        fy = torch.fft.fftfreq(self.size)[:, None] * self.size
        fx = torch.fft.rfftfreq(self.size)[None] * self.size
        radius = (fx * fx + fy * fy).sqrt()
        gain = torch.where(radius >= lowest, radius.clamp_min(1.0) ** -slope, torch.zeros(()))
        field = torch.fft.irfft2(torch.fft.rfft2(white) * gain, s=(self.size, self.size))
        return field / field.std().clamp_min(1e-6)

    def grid(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixel coordinates y, x in [0, 1), each (S, S)."""
        axis = (torch.arange(self.size) + 0.5) / self.size
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        return y, x

    def plain(self) -> torch.Tensor:
        """A near-textureless wall: plaster or paint."""
        tone = 1 + self.uniform(0.004, 0.03) * self.noise(1.8) + 0.012 * self.noise(0.6, 8)
        return self.color(0.25, 0.85, 0.15) * tone

    def noisy(self) -> torch.Tensor:
        """Mixed noise of one spectrum between two colours."""
        blend = torch.sigmoid(self.noise(self.uniform(0.6, 2.2)) * self.uniform(0.6, 3.0))
        a, b = self.color(), self.color()
        return a * blend + b * (1 - blend)

    def stone(self) -> torch.Tensor:
        """Stone: veins and grain."""
        base = torch.sigmoid(1.5 * self.noise(1.6))
        veins = (-self.noise(1.7).abs() * self.uniform(3, 12)).exp()
        a, b, vein = self.color(0.15, 0.7, 0.12), self.color(0.1, 0.6, 0.12), self.color(0.05, 0.9)
        image = a * base + b * (1 - base)
        image = image + (vein - image) * 0.6 * veins
        return image * (1 + 0.1 * self.noise(0.4, 4))

    def bricks(self, rows: int = 0, columns: int = 0) -> torch.Tensor:
        """Bricks in running bond: each brick its own tone, rough mortar."""
        rows = rows or 2 * self.integer(4, 9)
        columns = columns or max(2, int(rows / self.uniform(1.6, 3.2)))
        joint = self.uniform(0.03, 0.09)
        y, x = self.grid()
        warp = 0.012 * self.noise(1.8)
        row = torch.floor(y * rows)
        shifted = x * columns + 0.5 * (row % 2) + warp * columns * 0.3
        column = torch.floor(shifted) % columns
        fy, fx = y * rows - row, shifted - torch.floor(shifted)
        edge = torch.minimum(torch.minimum(fy, 1 - fy), torch.minimum(fx, 1 - fx) * rows / columns)
        edge = edge + 0.02 * self.noise(1.0, 6)
        mortar = torch.sigmoid((edge - joint) * self.size / rows * 0.6)
        tones = torch.rand(rows, columns, generator=self.generator)
        hues = torch.rand(rows, columns, generator=self.generator)
        tone = tones[row.long() % rows, column.long()]
        hue = hues[row.long() % rows, column.long()]
        a, b = self.color(0.1, 0.5, 0.5), self.color(0.1, 0.5, 0.5)
        brick = (a * hue + b * (1 - hue)) * (0.6 + 0.8 * tone)
        brick = brick * (1 + 0.18 * self.noise(0.7, 3))
        cement = self.color(0.3, 0.7, 0.06) * (1 + 0.12 * self.noise(0.5, 4))
        return cement + (brick - cement) * mortar

    def tiles(self) -> torch.Tensor:
        """Square tiles: paving or a bathroom wall, plain, chequered or individually toned."""
        n = 2 * self.integer(1, 6)
        y, x = self.grid()
        i, j = torch.floor(y * n).long() % n, torch.floor(x * n).long() % n
        fy, fx = y * n - torch.floor(y * n), x * n - torch.floor(x * n)
        edge = torch.minimum(torch.minimum(fy, 1 - fy), torch.minimum(fx, 1 - fx))
        mortar = torch.sigmoid((edge - self.uniform(0.01, 0.04)) * self.size / n * 0.8)
        tones = torch.rand(n, n, generator=self.generator)
        chequer = ((i + j) % 2).float() * self.uniform(0, 1)
        tone = 1 + self.uniform(0.02, 0.6) * (tones[i, j] - 0.5) - 0.6 * chequer
        face = self.color(0.15, 0.8, 0.2) * tone
        face = face * (1 + self.uniform(0.02, 0.15) * self.noise(self.uniform(0.5, 1.8)))
        groove = self.color(0.05, 0.6, 0.1)
        return groove + (face - groove) * mortar

    def cobbles(self) -> torch.Tensor:
        """Rounded stones: cells of jittered points."""
        n = self.integer(5, 14)
        jitter = torch.rand(n, n, 2, generator=self.generator)
        tones = torch.rand(n, n, generator=self.generator)
        y, x = (c * n for c in self.grid())
        near = torch.full((self.size, self.size), 9.0)
        second, tone = near.clone(), torch.zeros_like(near)
        cy, cx = torch.floor(y), torch.floor(x)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                i, j = cy + dy, cx + dx
                ii, jj = i.long() % n, j.long() % n
                py, px = i + 0.15 + 0.7 * jitter[ii, jj, 0], j + 0.15 + 0.7 * jitter[ii, jj, 1]
                distance = ((y - py) ** 2 + (x - px) ** 2).sqrt()
                closer = distance < near
                second = torch.where(closer, near, torch.minimum(second, distance))
                tone = torch.where(closer, tones[ii, jj], tone)
                near = torch.where(closer, distance, near)
        gap = torch.sigmoid((second - near - 0.12) * self.size / n * 0.25)
        a, b = self.color(0.15, 0.6, 0.15), self.color(0.15, 0.6, 0.15)
        stone = (a * tone + b * (1 - tone)) * (1.1 - 0.4 * near)
        stone = stone * (1 + 0.2 * self.noise(0.6, 4))
        return stone * (0.25 + 0.75 * gap)

    def planks(self) -> torch.Tensor:
        """Wood boards with grain along them."""
        n = self.integer(3, 10)
        y, x = self.grid()
        board = torch.floor(x * n).long() % n
        tones = torch.rand(n, generator=self.generator)
        offset = torch.rand(n, generator=self.generator)
        grain = self.noise(1.3)
        # an eighth of the noise, there and back: drawn out along the boards, and seamless
        along = (2 * y - 1).abs() * 0.125 + offset[board]
        rows = torch.floor(along * self.size).long() % self.size
        columns = torch.arange(self.size).expand(self.size, -1)
        streak = grain[rows, columns]
        fx = x * n - torch.floor(x * n)
        edge = torch.sigmoid((torch.minimum(fx, 1 - fx) - 0.02) * self.size / n * 0.6)
        face = self.color(0.12, 0.5, 0.5) * (0.7 + 0.6 * tones[board]) * (1 + 0.22 * streak)
        return face * (0.2 + 0.8 * edge)

    def gradient(self) -> torch.Tensor:
        """A smooth wave between two colours, as light falls on a painted wall."""
        y, x = self.grid()
        wave = 0.5 + 0.5 * torch.sin(
            2 * math.pi * (self.integer(0, 3) * y + self.integer(0, 3) * x) + self.uniform(0, 6)
        )
        return (self.color() * wave + self.color() * (1 - wave)) * (1 + 0.01 * self.noise(0.5))

    def grass(self) -> torch.Tensor:
        """Grass or gravel: fine strong grain over soft patches."""
        patch = torch.sigmoid(self.noise(1.6))
        grain = (1 + 0.45 * self.noise(0.35, 8)).clamp_min(0.1)
        a = self.color(0.1, 0.35, 0.6)
        return (a * patch + self.color(0.1, 0.4, 0.4) * (1 - patch)) * grain

    def leaves(self, count: int = 260) -> torch.Tensor:
        """Dead leaves: opaque shapes of power-law sizes, the statistics of natural images."""
        size = self.size
        base = self.color(0.1, 0.7, 0.4)
        image = base.expand(3, size, size).clone()
        spread, striped = self.uniform(0.15, 0.6), self.uniform() > 0.5
        paints = base + (self.colors(count, 0.02, 0.9, 0.5) - base) * min(1.0, spread * 1.8)
        draws = torch.rand(count, 9, generator=self.generator).tolist()
        for k, draw in enumerate(draws):
            radius = size * 2 ** (-6.5 + 4.5 * draw[0]) * (1.3 - k / count)
            self._stamp(image, paints[k], radius, striped and draw[1] > 0.6, draw[2:])
        return image * (1 + 0.06 * self.noise(0.7))

    def _stamp(
        self,
        image: torch.Tensor,
        paint: torch.Tensor,
        radius: float,
        striped: bool,
        draws: list[float],
    ) -> None:
        """Paint one soft-edged ellipse, rectangle or rhombus, wrapping at the borders."""
        size = self.size
        aspect, angle = 2 ** (2.4 * draws[0] - 1.2), math.pi * draws[1]
        long, short = radius * aspect, radius / aspect
        cosine, sine = math.cos(angle), math.sin(angle)
        limit = size // 2 - 1
        reach_y = min(limit, int(long * abs(sine) + short * abs(cosine)) + 2)
        reach_x = min(limit, int(long * abs(cosine) + short * abs(sine)) + 2)
        cy, cx = size * draws[2], size * draws[3]
        span_y = torch.arange(-reach_y, reach_y + 1)
        span_x = torch.arange(-reach_x, reach_x + 1)
        dy = (span_y + (math.floor(cy) - cy))[:, None]
        dx = (span_x + (math.floor(cx) - cx))[None]
        a = (dx * cosine + dy * sine) / aspect
        b = (dy * cosine - dx * sine) * aspect
        shape = int(3 * draws[4])
        if shape == 0:
            distance = (a * a + b * b).sqrt()
        elif shape == 1:
            distance = torch.maximum(a.abs(), b.abs())
        else:
            distance = a.abs() + b.abs()
        alpha = (radius - distance + 0.5).clamp(0, 1)
        if striped:
            wave = torch.sin(a * (0.05 + 1.15 * draws[5]))
            paint = paint * (1 + 0.5 * draws[6] * wave)
        rows = (span_y + math.floor(cy)) % size
        columns = (span_x + math.floor(cx)) % size
        patch = image[:, rows[:, None], columns[None]]
        image[:, rows[:, None], columns[None]] = patch + (paint - patch) * alpha

    def marks(self) -> torch.Tensor:
        """Text-like marks: lines of small strokes on plain ground, as on posters and signs."""
        image = self.plain().clamp(0, 1)
        size = self.size
        ink = self.color(0.01, 0.12, 0.5) if float(image.mean()) > 0.3 else self.color(0.6, 0.9)
        y = size * self.uniform(0.03, 0.1)
        while y < size * 0.92:
            height = size * 2 ** self.uniform(-5.0, -2.6)
            if y + height > size * 0.97:
                break
            if self.uniform() < 0.15:
                ink = self.color(0.02, 0.8, 0.8)
            x = size * self.uniform(0.03, 0.15)
            end = size * self.uniform(0.5, 0.97)
            while x < end - height:
                self._glyph(image, int(y), int(x), max(3, int(height)), ink)
                x += height * (0.75 if self.uniform() > 0.17 else 1.4)
            y += height * self.uniform(1.3, 1.8)
        return image

    def _glyph(self, image: torch.Tensor, y: int, x: int, height: int, ink: torch.Tensor) -> None:
        width, pen = max(2, int(height * 0.6)), max(1, height // 7)
        for _ in range(self.integer(2, 5)):
            if self.uniform() < 0.5:
                at = self.integer(0, 3) * (width - pen) // 2
                top, bottom = (0, height) if self.uniform() < 0.6 else (height // 2, height)
                image[:, y + top : y + bottom, x + at : x + at + pen] = ink
            else:
                at = self.integer(0, 3) * (height - pen) // 2
                image[:, y + at : y + at + pen, x : x + width] = ink

    def poster(self) -> torch.Tensor:
        """A picture: a few large leaves with lines of marks over a part of it."""
        image = self.leaves(40)
        text = self.marks()
        top = self.integer(0, self.size // 2)
        image[:, top : top + self.size // 3] = text[:, : self.size // 3]
        return image

    def glass(self) -> torch.Tensor:
        """A window: dark panes, frame, curtains or blinds behind."""
        y, x = self.grid()
        panes = self.integer(1, 4)
        curtain = 0.5 + 0.5 * torch.sin(2 * math.pi * (self.integer(6, 20) * x) + self.noise(2.0))
        width = self.uniform(0.05, 0.45)
        drawn = ((x < width) | (x > 1 - width)).float() * (0.4 + 0.6 * curtain)
        image = self.color(0.01, 0.08, 0.3) * (1 + 0.4 * self.noise(1.5))
        image = image + (self.color(0.2, 0.8, 0.2) - image) * drawn * self.uniform(0, 1)
        fx, rows = x * panes - torch.floor(x * panes), self.integer(1, 4)
        fy = y * rows - torch.floor(y * rows)
        bar = torch.minimum(torch.minimum(fx, 1 - fx) / panes, torch.minimum(fy, 1 - fy) / rows)
        frame = torch.sigmoid((self.uniform(0.02, 0.05) - bar) * self.size * 0.7)
        return image + (self.color(0.1, 0.8, 0.2) - image) * frame

    def stains(self) -> torch.Tensor:
        """Worn plaster or stone: patches, streaks that run down, dark pores, cracks."""
        base = self.color(0.2, 0.8, 0.2) * (1 + self.uniform(0.03, 0.12) * self.noise(0.9))
        patch = torch.sigmoid((self.noise(1.8) - self.uniform(0.3, 1.2)) * self.uniform(2, 14))
        image = base + (self.color(0.1, 0.8, 0.25) - base) * patch * self.uniform(0.2, 1.0)
        # streaks: noise of which only the slow changes along the height are left
        spectrum = torch.fft.rfft2(self.noise(1.0))
        rows = (torch.fft.fftfreq(self.size)[:, None] * self.size).abs()
        streaks = torch.fft.irfft2(spectrum * (rows < 3), s=(self.size, self.size))
        streaks = streaks / streaks.std().clamp_min(1e-6)
        image = image * (1 - self.uniform(0.0, 0.25) * streaks.clamp(0, 2))
        pores = (self.noise(self.uniform(0.2, 0.9), 6) > self.uniform(1.6, 2.6)).float()
        image = image * (1 - self.uniform(0.2, 0.8) * pores)
        cracks = (-self.noise(1.5).abs() * self.uniform(25, 80)).exp()
        return image * (1 - self.uniform(0.0, 0.6) * cracks)

    def ornament(self) -> torch.Tensor:
        """Carved stone or a printed pattern: one motif, mirrored and repeated, of two tones."""
        n = self.integer(1, 5)
        field = self._mirrored(self.noise(self.uniform(1.0, 1.7), 2), n)
        fine = self._mirrored(self.noise(self.uniform(0.4, 1.0), 6), n)
        blend = torch.sigmoid((field + self.uniform(0.1, 0.7) * fine) * self.uniform(2, 12))
        a, b = self.color(0.1, 0.8), self.color(0.1, 0.8)
        image = a * blend + b * (1 - blend)
        return image * (1 + self.uniform(0.02, 0.15) * self.noise(0.6, 3))

    def _mirrored(self, field: torch.Tensor, n: int) -> torch.Tensor:
        """A corner of a field, mirrored left to right and top to bottom, n x n times, (S, S)."""
        y, x = self.grid()
        x, y = x * n, y * n
        u = (2 * (x - torch.floor(x)) - 1).abs()
        v = (2 * (y - torch.floor(y)) - 1).abs()
        rows = (v * (self.size - 1) / n).long()
        columns = (u * (self.size - 1) / n).long()
        return field[rows, columns]

    def wallpaper(self) -> torch.Tensor:
        """Flowers or figures of a few leaves, strewn alike over every cell of a grid."""
        n = 2 ** self.integer(0, 3)
        small = Painter(max(8, self.size // n), self.generator)
        ground = small.plain().clamp(0, 1).expand(3, small.size, small.size).clone()
        for _ in range(self.integer(1, 4)):
            center = torch.rand(2, generator=self.generator)
            for paint in small.colors(self.integer(4, 16), 0.02, 0.9, 0.6):
                shift = torch.randn(2, generator=self.generator)
                draws = torch.rand(7, generator=self.generator)
                draws[2:4] = (center + 0.09 * shift) % 1.0
                radius = small.size * self.uniform(0.02, 0.12)
                small._stamp(ground, paint, radius, self.uniform() < 0.3, draws.tolist())
        return ground.repeat(1, n, n)[:, : self.size, : self.size]

    def stripes(self) -> torch.Tensor:
        """Stripes of a few colours and widths: wallpaper, awnings, corrugated sheets."""
        _, x = self.grid()
        if self.uniform() < 0.3:
            x = x.T
        n = self.integer(1, 9)
        edges = torch.rand(self.integer(1, 5), generator=self.generator).sort().values
        band = torch.bucketize((x * n) % 1.0, edges)
        paints = self.colors(len(edges) + 1, 0.05, 0.85, 0.4)[:, :, 0, 0]
        image = paints[band].permute(2, 0, 1)
        return image * (1 + self.uniform(0.01, 0.12) * self.noise(self.uniform(0.4, 1.5)))

    def weave(self) -> torch.Tensor:
        """Cloth: the bumps of its threads, checks of coloured ones both ways, folds."""
        y, x = self.grid()
        n = self.size // self.integer(3, 9)
        over = torch.sin(math.pi * n * x).abs() * torch.sin(math.pi * n * y).abs()
        checks = self.integer(1, 7)
        paints = self.colors(2 * checks, 0.05, 0.8, 0.4)
        plain = paints[:1].expand_as(paints)
        paints = plain + (paints - plain) * self.uniform(0.0, 1.0)
        warp = paints[:checks, :, 0, 0][(x * checks).long() % checks].permute(2, 0, 1)
        weft = paints[checks:, :, 0, 0][(y * checks).long() % checks].permute(2, 0, 1)
        folds = 1 + self.uniform(0.0, 0.25) * self.noise(2.2)
        return 0.5 * (warp + weft) * (0.75 + 0.25 * over) * folds

    def books(self) -> torch.Tensor:
        """Shelves of book spines, columns of many colours; most have a band across."""
        shelves = self.integer(1, 5)
        height = self.size // shelves
        image = (self.color(0.02, 0.3, 0.3) * torch.ones(1, self.size, self.size)).clone()
        for shelf in range(shelves):
            bottom, x = (shelf + 1) * height - max(1, height // 16), 0
            while x < self.size:
                wide = max(2, int(height * self.uniform(0.05, 0.28)))
                tall = int(height * self.uniform(0.6, 0.9))
                top, right = bottom - tall, min(self.size, x + wide)
                image[:, top:bottom, x:right] = self.color(0.03, 0.85, 0.6)
                if self.uniform() < 0.6:
                    at = top + int(tall * self.uniform(0.1, 0.6))
                    band = max(1, int(tall * self.uniform(0.03, 0.25)))
                    image[:, at : at + band, x:right] = self.color(0.03, 0.9, 0.6)
                image[:, top:bottom, x] *= 0.4
                x += wide
        return image * (1 + 0.04 * self.noise(0.8))
